//! Every error a client can be told, with its stable code.

use super::ffi::context::Ctx;
use crate::engine::cache::leases::LEASES_MAX;
use crate::engine::lock::Mode;
use crate::engine::tag::TAGS_PER_ENTRY_MAX;

/// Why a command was refused. A refused command changes nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// An argument is not an integer of the range.
    NotInteger {
        /// Which argument.
        name: &'static str,
        /// The least it may be.
        min: u64,
        /// The most it may be.
        max: u64,
    },
    /// An argument is not a number above 0.
    NotPositive(&'static str),
    /// Two options that exclude each other.
    Contradiction(&'static str, &'static str),
    /// An argument is none of the words it may be.
    NotOneOf {
        /// Which argument.
        name: &'static str,
        /// What it may be.
        words: &'static str,
    },
    /// More of something than is allowed.
    TooMany {
        /// Of what.
        what: &'static str,
        /// The most there may be.
        most: usize,
    },
    /// Something would take longer than the longest duration.
    TooLate {
        /// What would.
        what: &'static str,
        /// The longest it may take, in milliseconds.
        ms_max: u64,
    },
    /// A payload that no server of this release or an earlier one wrote.
    BadPayload,
    /// An argument is longer than it may be.
    TooLong {
        /// Which argument.
        name: &'static str,
        /// The most bytes it may have.
        bytes_max: usize,
    },
    /// An option that this command does not have.
    UnknownOption(Vec<u8>),
    /// An option was given twice, or twice in two forms.
    Repeated(&'static str),
    /// The command ends where this was expected.
    Missing(&'static str),
    /// The key holds a value of another type.
    WrongType,
    /// Another caller regenerates the key, and this one does not or may not wait any longer.
    Leased {
        /// Milliseconds until that lease ends.
        left_ms: u64,
    },
    /// The last holder of the lease could not load the value, with its message; it is too early
    /// to try again.
    Failed(Vec<u8>),
    /// An option that means nothing in a script.
    NotInScript(&'static str),
    /// No more leases are remembered.
    Full,
    /// The key is held, or waited for, as something that cannot be asked for like this.
    HeldAs(Mode),
    /// The caller holds the lock already, in this other mode.
    HeldOtherwise(Mode),
    /// There is no higher fencing number.
    NumbersUsedUp,
    /// A point in time that has passed.
    Past(&'static str),
    /// A number that a restarted server would not surpass.
    FarAhead(&'static str),
    /// A lease or lock would have to be granted, and this server follows another one.
    Readonly,
    /// More tags than an entry may have.
    TooManyTags,
    /// A limit would have to change, and this server follows another one.
    ReadonlyLimit,
    /// The key moved to another node while the caller waited.
    Moved,
    /// The caller lost the permission for its command or a key of it while it waited.
    Withdrawn,
    /// The server does not let this connection wait.
    CannotWait,
    /// A panic, caught.
    Internal,
}

impl Error {
    /// Answers the caller with this error.
    pub fn reply(&self, ctx: Ctx<'_>) {
        ctx.reply_error(&self.text());
    }

    fn text(&self) -> String {
        match self {
            Self::NotInteger { name, min, max } => {
                format!("ERR {name} must be an integer from {min} to {max}")
            }
            Self::NotPositive(name) => format!("ERR {name} must be a number above 0"),
            Self::Contradiction(name, other) => format!("ERR {name} cannot be given with {other}"),
            Self::NotOneOf { name, words } => format!("ERR {name} must be {words}"),
            Self::TooMany { what, most } => format!("ERR no more than {most} {what} can be given"),
            Self::TooLate { what, ms_max } => format!("ERR {what} needs more than {ms_max} ms to be fully restored"),
            Self::BadPayload => "ERR the payload of STATE is cut, corrupt or from a later release".to_owned(),
            Self::TooLong { name, bytes_max } => format!("ERR {name} must not be longer than {bytes_max} bytes"),
            Self::UnknownOption(word) => {
                let word = String::from_utf8_lossy(word.get(..OPTION_BYTES_SHOWN).unwrap_or(word)).into_owned();
                format!("ERR unknown option '{word}'")
            }
            Self::Repeated(name) => format!("ERR {name} was given more than once"),
            Self::Missing(name) => format!("ERR {name} is missing"),
            Self::WrongType => "WRONGTYPE Operation against a key holding the wrong kind of value".to_owned(),
            Self::Leased { left_ms } => {
                format!("LEASED another caller loads this key; its lease ends in {left_ms} ms")
            }
            Self::Failed(message) => format!("FAILED {}", String::from_utf8_lossy(message)),
            Self::NotInScript(name) => format!("ERR {name} cannot be given in a script, which has no connection"),
            Self::Full => format!("ERR too many active leases (maximum {LEASES_MAX})"),
            Self::TooManyTags => format!("ERR an entry cannot have more than {TAGS_PER_ENTRY_MAX} tags"),
            Self::ReadonlyLimit => "READONLY this server became a replica while the caller waited".to_owned(),
            Self::HeldAs(mode) => format!("ERR the key is held or waited for {}", held(*mode)),
            Self::HeldOtherwise(mode) => format!("ERR the owner holds the lock already, {}", held(*mode)),
            Self::NumbersUsedUp => "ERR the fencing numbers are used up".to_owned(),
            Self::Past(name) => format!("ERR {name} is in the past"),
            Self::FarAhead(name) => format!("ERR {name} is more than a minute ahead"),
            Self::Readonly => "READONLY a replica cannot grant a lease or a lock".to_owned(),
            Self::Moved => "TRYAGAIN the key moved to another node while the caller waited".to_owned(),
            Self::Withdrawn => {
                "NOPERM this user no longer has permission to run this command or to access one of its keys".to_owned()
            }
            Self::CannotWait => {
                "ERR a connection that has subscribed to a channel cannot wait on this server; use another \
                 connection, or WAIT 0"
                    .to_owned()
            }
            Self::Internal => "ERR cacheguard failed and changed nothing; see the server's log".to_owned(),
        }
    }
}

fn held(mode: Mode) -> String {
    match mode {
        Mode::Exclusive => "as an exclusive lock".to_owned(),
        Mode::Shared => "as a SHARED lock".to_owned(),
        Mode::Permits(n) => format!("with PERMITS {n}"),
    }
}

const OPTION_BYTES_SHOWN: usize = 64;
