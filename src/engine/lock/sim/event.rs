//! What may come about in the simulated world.

/// What the search must come across.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    GrantedAtOnce,
    GrantedAfterWaiting,
    GrantedTogether,
    GrantedToTwoOfOneName,
    GrantedAfterDeadline,
    TimedOut,
    ToldAgain,
    Clashed,
    HeldOtherwise,
    WrongType,
    TakenBackUnheard,
    ReleasedByClosing,
    LeftFromTheMiddle,
    Crowded,
    Restarted,
    FailedOver,
    ClockSetBack,
    RefusedByRole,
    RenamedAway,
    PermitsInUse,
    NumberRaised,
    ExtendedUnheard,
}

impl Event {
    pub const ALL: [Self; 22] = [
        Self::GrantedAtOnce,
        Self::GrantedAfterWaiting,
        Self::GrantedTogether,
        Self::GrantedToTwoOfOneName,
        Self::GrantedAfterDeadline,
        Self::TimedOut,
        Self::ToldAgain,
        Self::Clashed,
        Self::HeldOtherwise,
        Self::WrongType,
        Self::TakenBackUnheard,
        Self::ReleasedByClosing,
        Self::LeftFromTheMiddle,
        Self::Crowded,
        Self::Restarted,
        Self::FailedOver,
        Self::ClockSetBack,
        Self::RefusedByRole,
        Self::RenamedAway,
        Self::PermitsInUse,
        Self::NumberRaised,
        Self::ExtendedUnheard,
    ];
}
