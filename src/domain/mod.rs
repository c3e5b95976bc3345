//! Words and rules: ids, byte counts, volumes and their states, sessions, commands, faults.
//!
//! Pure: nothing here awaits, does I/O or knows a wire format. Every other floor may import this one;
//! it imports none.

mod block;
mod clock;
mod command;
mod crash;
mod digest;
mod extent;
mod extents;
mod fault;
mod id;
mod identity;
mod network;
mod placement;
mod principal;
mod session;
mod ticket;
mod tree;
mod volume;

pub use block::{
    AttachedServer, Attachment, Backup, BackupRef, BackupState, BlockCommand, BlockFields, BlockOutcome, BlockPatch,
    BlockQuery, BlockView, BlockVolume, Direction, MetadataChange, NewBackup, NewVolume, Paged, ResetStatus, Seen,
    ServerQuery, SortKey, Thing, VolumeAction, VolumeType,
};
pub use clock::{Clock, FixedClock, SystemClock, UnixTime};
pub use command::{
    Command, DriveFilter, DriveSpec, Limits, Listing, NameMatch, Outcome, Page, Patch, ReceivePlan, SendPlan,
    VolumeQuery, VolumeRef, VolumeSpec,
};
pub use crash::CrashPoints;
pub use digest::{Pieces, Sha256};
pub use extent::{ByteCount, Extent, PIECE, TooManyBytes};
pub use extents::Extents;
pub use fault::{Blame, Fault, FaultKind, Reason};
pub use id::{BackupId, ContentId, JobId, SessionId, TenantId, TokenId, UploadId, UserId, VolumeId};
pub use identity::{AnonymousCommand, IdentityCommand, IdentityOutcome, Login, Named, Project, Proof, Token, User};
pub use network::{Network, NotANetwork};
pub use placement::{Catalogue, Placement, Region};
pub use principal::{Guard, Principal, Quota, Usage};
pub use session::{
    Began, Carried, Initialization, Secret, Session, SessionCommand, SessionState, Source, TreeSource, Unpacking,
    Upload, UploadState,
};
pub use ticket::{Ticket, Verb};
pub use tree::{Encoding, LONGEST_NAME, TreeFilter, TreeSpec, UnpackPlan, is_tree_name};
pub use volume::{IllegalStep, Media, Volume, VolumeEvent, VolumeKind, VolumeState};
