//! Decisions about one key, and how they are told.
//!
//! A [`Row`] is what a read of a key came to. The plain form of a command tells it in one value or
//! error, `META` in an array of state, value, token and milliseconds.

use crate::engine::cache::leases::{Failure, Grant};
use crate::server::error::Error;
use crate::server::ffi::context::{mono_now, Ctx};
use std::rc::Rc;

/// What a read of one key came to. `V` is the value's bytes, borrowed or owned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row<V> {
    /// A fresh value.
    Hit {
        /// The value.
        value: V,
        /// Milliseconds until it turns stale or goes; `None`: never.
        left_ms: Option<u64>,
    },
    /// A stale value, while somebody else regenerates it or nobody may.
    Stale {
        /// The value.
        value: V,
        /// Milliseconds until it goes; `None`: never.
        left_ms: Option<u64>,
    },
    /// The caller holds the lease.
    Won {
        /// The stale or early value, if there is one.
        value: Option<V>,
        /// The lease.
        grant: Grant,
    },
    /// Another caller does.
    Leased {
        /// Milliseconds until that lease ends.
        left_ms: u64,
    },
    /// The last holder could not load the value.
    Failed(Failure),
    /// Nothing, and the caller asked for no lease.
    Miss,
}

/// How a row is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// The value, nil or an error.
    #[default]
    Plain,
    /// `[state, value, token, ms]`.
    Meta,
}

impl Row<&[u8]> {
    /// The same row with a value of its own.
    #[must_use]
    pub fn copied(self) -> Row<Rc<[u8]>> {
        match self {
            Self::Hit { value, left_ms } => Row::Hit { value: value.into(), left_ms },
            Self::Stale { value, left_ms } => Row::Stale { value: value.into(), left_ms },
            Self::Won { value, grant } => Row::Won { value: value.map(Rc::from), grant },
            Self::Leased { left_ms } => Row::Leased { left_ms },
            Self::Failed(failure) => Row::Failed(failure),
            Self::Miss => Row::Miss,
        }
    }
}

impl<V: AsRef<[u8]>> Row<V> {
    /// Tells the row in the caller's form.
    ///
    /// # Errors
    /// In the plain form [`Error::Leased`] and [`Error::Failed`]; then nothing was told yet.
    pub fn reply(&self, ctx: Ctx<'_>, form: Form) -> Result<(), Error> {
        match form {
            Form::Plain => self.reply_plain(ctx),
            Form::Meta => {
                self.reply_meta(ctx);
                Ok(())
            }
        }
    }

    #[inline]
    fn reply_plain(&self, ctx: Ctx<'_>) -> Result<(), Error> {
        match self {
            Self::Hit { value, .. } | Self::Stale { value, .. } => ctx.reply_bytes(value.as_ref()),
            Self::Won { .. } | Self::Miss => ctx.reply_nil(),
            Self::Leased { left_ms } => return Err(Error::Leased { left_ms: *left_ms }),
            Self::Failed(failure) => return Err(Error::Failed(failure.message.to_vec())),
        }
        Ok(())
    }

    /// Tells the row as `[state, value, token, ms]`.
    pub fn reply_meta(&self, ctx: Ctx<'_>) {
        let ended = |left_ms: &Option<u64>| Some(left_ms.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX)));
        let ms = |ms: u64| Some(i64::try_from(ms).unwrap_or(i64::MAX));
        let now = mono_now();
        let (state, value, token, ms) = match self {
            Self::Hit { value, left_ms } => ("hit", Some(value), None, ended(left_ms)),
            Self::Stale { value, left_ms } => ("stale", Some(value), None, ended(left_ms)),
            Self::Won { value, grant } => {
                ("won", value.as_ref(), Some(grant.token.to_string()), ms(grant.deadline.since(now)))
            }
            Self::Leased { left_ms } => ("leased", None, None, ms(*left_ms)),
            Self::Failed(failure) => ("failed", None, None, ms(failure.until.since(now))),
            Self::Miss => ("miss", None, None, None),
        };
        ctx.reply_array(4);
        ctx.reply_bytes(state.as_bytes());
        value.map_or_else(|| ctx.reply_nil(), |value| ctx.reply_bytes(value.as_ref()));
        token.map_or_else(|| ctx.reply_nil(), |token| ctx.reply_bytes(token.as_bytes()));
        ms.map_or_else(|| ctx.reply_nil(), |ms| ctx.reply_integer(ms));
    }
}
