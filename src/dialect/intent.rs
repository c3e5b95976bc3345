//! What requests ask for, each with what doing it takes.

use std::fmt;

use super::Probe;
use crate::domain::{
    AnonymousCommand, Command, IdentityCommand, Login, PartPlan, Principal, ReceivePlan, Secret, SendPlan, SurveyPlan,
    TransferAction, TransferId, UnpackPlan,
};

/// What a decoded request asks for, with the caller where there must be one, and the body `B` where that is the
/// transfer.
#[derive(Clone, PartialEq)]
pub enum Intent<B> {
    /// Anyone may ask for it.
    Anonymous(Anonymous),
    /// It is done for this caller.
    Work(Principal, Work),
    /// Bytes of a drive come in.
    Receive(Principal, ReceivePlan, B),
    /// A part of a transfer comes in: for this caller, or under the capability in the plan.
    Part(Option<Principal>, PartPlan, B),
    /// The archive of a tree comes in. The plan holds the capability for it.
    Unpack(UnpackPlan, B),
    /// Bytes go out. The plan holds the capability for them.
    Send(SendPlan),
    /// Somebody who runs the server asks how it does.
    Probe(Probe),
}

/// What anyone may ask for.
#[derive(Clone, Debug, PartialEq)]
pub enum Anonymous {
    /// A token, for a name and password.
    Login(Login),
    /// Work of the identity service.
    Identity(AnonymousCommand),
    /// What the URL of a download offers, by who has it.
    Survey(SurveyPlan),
    /// Work on a transfer, by who has the secret of its URL.
    Transfer(TransferId, Secret, TransferAction),
    /// The keys that check receipts.
    Keys,
    /// What is served here.
    Discover,
    /// What this server allows.
    Describe,
}

/// What is done for a known caller.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// Metadata work: executed, then answered.
    Control(Command),
    /// Work of the identity service.
    Identity(IdentityCommand),
    /// The progress of a transfer, told until its end.
    Watch {
        /// The transfer.
        id: TransferId,
        /// The mark of what the caller was told of it before.
        after: Option<String>,
    },
    /// What is served here.
    Discover,
}

/// What is asked for, without who asks and without the body.
impl<B> fmt::Debug for Intent<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous(anonymous) => anonymous.fmt(f),
            Self::Work(_, work) => work.fmt(f),
            Self::Receive(_, plan, _) => f.debug_tuple("Receive").field(plan).finish(),
            Self::Part(_, plan, _) => f.debug_tuple("Part").field(plan).finish(),
            Self::Unpack(plan, _) => f.debug_tuple("Unpack").field(plan).finish(),
            Self::Send(plan) => f.debug_tuple("Send").field(plan).finish(),
            Self::Probe(probe) => f.debug_tuple("Probe").field(probe).finish(),
        }
    }
}
