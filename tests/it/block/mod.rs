//! Block storage, as its clients see it.

mod administrators;
mod attachments;
mod backups;
mod clients;
mod elsewhere;
mod lists;
mod quotas;
mod rot;
mod schemas;
mod snapshots;
mod states;
mod truth;
mod volumes;
