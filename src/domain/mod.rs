//! Words and rules: ids, byte counts, volumes and their states, sessions, commands, faults.
//!
//! Pure: nothing here awaits, does I/O or knows a wire format. Every other floor may import this one; it imports none.

mod block;
mod checksum;
mod chunk;
mod clock;
mod command;
mod crash;
mod digest;
mod extent;
mod extents;
mod fault;
mod have;
mod id;
mod identity;
mod network;
mod patch;
mod piece_list;
mod placement;
mod principal;
mod receipt;
mod session;
mod shortage;
mod ticket;
mod transfer;
mod tree;
mod volume;
mod zero;

pub use block::{
    AttachedServer, Attachment, Backup, BackupRef, BackupState, BlockCommand, BlockFields, BlockOutcome, BlockQuery,
    BlockView, BlockVolume, Direction, NewBackup, Paged, Reset, ResetStatus, Seen, ServerQuery, SortKey, VolumeAction,
    VolumeType,
};
pub use checksum::{Checks, Checksum, ChecksumAlgorithm};
pub use chunk::Chunk;
pub use clock::{Clock, FixedClock, SystemClock, UnixTime};
pub use command::{
    Command, DriveFilter, Limits, Listing, NameMatch, Outcome, Owned, Page, Reach, ReceivePlan, SendPlan, Survey,
    SurveyPlan, VolumeQuery, VolumeRef, VolumeSource, VolumeSpec,
};
pub use crash::CrashPoints;
pub use digest::{Algorithm, Algorithms, Blake3, Digests, Pieces, Sha256};
pub use extent::{ByteCount, Extent, PIECE, TooManyBytes};
pub use extents::Extents;
pub use fault::{Blame, Fault, FaultKind, Reason};
pub use have::{Base, DigestedPieces, Had, Have, PieceQuery, PieceRun};
pub use id::{BackupId, ContentId, JobId, SessionId, TenantId, TokenId, TransferId, UploadId, UserId, VolumeId};
pub use identity::{AnonymousCommand, IdentityCommand, IdentityOutcome, Login, Named, Project, Proof, Token, User};
pub use network::{Network, NotANetwork};
pub use patch::{BlockPatch, PairsChange, Patch};
pub use piece_list::PieceListState;
pub use placement::{Catalogue, Placement, Region};
pub use principal::{Guard, Principal, Quota, QuotaChange, Usage};
pub use receipt::{PublicKey, Receipt, ReceiptDigests, ReceiptOf, SignedReceipt};
pub use session::{
    Began, Carried, Initialization, Secret, Session, SessionCommand, SessionState, Source, TreeSource, Unpacking,
    Upload, UploadState,
};
pub use shortage::Shortage;
pub use ticket::{ChunkTicket, Ticket, Verb};
pub use transfer::{
    ChunkLength, ChunkSource, Completion, Finishes, Limiter, Origin, PartOffset, PartPlan, PartTarget, Transfer,
    TransferAction, TransferCommand, TransferQuery, TransferSeen, TransferSpec, TransferState,
};
pub use tree::{Encoding, LONGEST_NAME, TreeFilter, UnpackPlan, is_tree_name};
pub use volume::{IllegalStep, Media, Volume, VolumeEvent, VolumeKind, VolumeState};
pub use zero::{GRANULE, data_runs, is_zero};
