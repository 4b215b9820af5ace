//! The rarer things that may come about; counted, to know that the search reaches them.

use crate::engine::cache::outbox::Answer;

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
    Parked Crowded AskedForOwnLease AskedWhenOverdue AskedWhileStale
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

pub(super) fn told(answer: &Answer) -> Event {
    match answer {
        Answer::Value(_) => Event::ToldValue,
        Answer::Won(_) => Event::ToldWon,
        Answer::Leased { .. } => Event::ToldLeased,
        Answer::Failed(_) => Event::ToldFailed,
        Answer::Look => Event::ToldLook,
        Answer::WrongType | Answer::Moved | Answer::Readonly => Event::ToldRefusal,
    }
}
