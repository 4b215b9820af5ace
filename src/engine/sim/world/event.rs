//! The rarer things that may come about; counted, to know that the search reaches them.

use crate::engine::cache::pending::Reply;

macro_rules! events {
    ($($name:ident)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(in crate::engine::sim) enum Event { $($name),* }

        impl Event {
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

events! {
    Blocked Crowded AskedForOwnLease AskedWhenOverdue AskedWhileStale
    GivenBack GivenBackOutdated GivenBackInDoubt LeftWithAnswer
    ToldValue ToldLeased ToldWon ToldRefusal ToldFailed ToldLook
    AskedAfterFailure FailedAgain SettledFailure
    WonEarly RefusedEarly EarlyLeftAlone EarlyWaitedFor AppearedWhileEarly
    TokenLive TokenDead TokenForged TokenElsewhere
    Stored Touched Renewed Released Failed
    BoundEnded BoundEndedInDoubt
    GroupParked GroupNarrowed GroupWon GroupLeft GroupTimedOut GroupMixed GroupWaitedAgain SinglesLooked
    HeirToldValue HeirLooked
}

pub(super) fn told(reply: &Reply) -> Event {
    match reply {
        Reply::Value(_) => Event::ToldValue,
        Reply::Won(_) => Event::ToldWon,
        Reply::Leased { .. } => Event::ToldLeased,
        Reply::Failed(_) => Event::ToldFailed,
        Reply::Look => Event::ToldLook,
        Reply::WrongType | Reply::Moved | Reply::Readonly => Event::ToldRefusal,
    }
}
