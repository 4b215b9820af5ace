//! Hands pending replies to the server, a slice in each turn of the event loop.
//!
//! A slice ends after [`REPLIES_MAX`] replies, about a millisecond of writes to sockets; after
//! [`BYTES_MAX`] bytes; or after [`TELLING_US`] spent on making them: whatever comes first, but never
//! before the first reply. How much a reply costs is known only when it has been made, which the server
//! asks for after the hand-over. So a slice is a chain: replies of a known small size go over together,
//! any other alone, and the next follow when the server has made those. It makes whatever is handed over
//! meanwhile in the same go. Handing over a fixed number was rejected: a hundred values of 8 MB, or rows
//! of 10 000 keys, held everybody else up for a second.
//!
//! The families take turns: nobody waits for a crowd of another family. Within one, the grants of leases
//! and the replies that carry no right go by turns as well ([`crate::engine::cache::pending`]), for a lease runs
//! from the moment it was granted.

use super::ffi::block::{self, Blocked, Waits};
use super::ffi::context::{bytes_replied, micros, mono_now};
use super::state::STATE;
use crate::engine::time::MonoMillis;
use crate::server::cache::wait as cache_wait;
use crate::server::limit::wait as limit_wait;
use crate::server::lock::wait as lock_wait;

/// Replies in one turn of the event loop.
const REPLIES_MAX: usize = 100;
/// Bytes of replies in one turn.
const BYTES_MAX: u64 = 1 << 20;
/// Processor time for making replies in one turn, in microseconds.
const TELLING_US: u64 = 1_000;
/// Replies that are handed over together.
const TOGETHER_MAX: usize = 32;
/// Bytes of replies that are handed over together.
const TOGETHER_BYTES_MAX: usize = 64 * 1024;

/// One slice.
#[derive(Clone, Copy, Default)]
pub struct Slice {
    /// How many replies may still be handed over.
    left: usize,
    /// Those that were, and that the server has not made yet.
    in_flight: usize,
    /// What [`bytes_replied`] may come to.
    bytes_end: u64,
    /// Whose turn it is.
    family: usize,
}

/// Hands over the first replies of a new slice.
pub fn begin() {
    block::restart_telling();
    STATE.with(|state| {
        let Slice { family, .. } = state.slice;
        state.slice = Slice { left: REPLIES_MAX, in_flight: 0, bytes_end: bytes_replied() + BYTES_MAX, family };
    });
    hand_over();
}

/// True if replies wait to be handed over.
#[must_use]
pub fn has_more() -> bool {
    STATE.with(|state| state.leases.has_replies() || state.locks.has_replies() || state.limit_waits.lines.has_replies())
}

/// The server has made one reply: when it has made all that it was given, it is given the next.
fn made() {
    let Slice { in_flight, bytes_end, .. } = STATE.with(|state| {
        state.slice.in_flight = state.slice.in_flight.saturating_sub(1);
        state.slice
    });
    let began = block::telling_since();
    if in_flight == 0 && bytes_replied() < bytes_end && micros() < began.saturating_add(TELLING_US) {
        hand_over();
    }
}

fn hand_over() {
    let (now, mut bytes) = (mono_now(), 0);
    for _ in 0..TOGETHER_MAX {
        let may = STATE.with(|state| {
            let left = state.slice.left;
            state.slice.left = left.saturating_sub(1);
            left > 0
        });
        if !may {
            break;
        }
        let Some(HandedOver { is_awaited, bytes_max }) = next_in_turn(now) else { break };
        STATE.with(|state| state.slice.in_flight += usize::from(is_awaited));
        bytes += bytes_max.unwrap_or(TOGETHER_BYTES_MAX);
        if bytes >= TOGETHER_BYTES_MAX {
            break;
        }
    }
}

/// One pending reply of the family whose turn it is, or of the next that has any.
fn next_in_turn(now: MonoMillis) -> Option<HandedOver> {
    let families: [&dyn Fn() -> Option<HandedOver>; 3] =
        [&lock_wait::answer_next, &limit_wait::answer_next, &|| cache_wait::answer_next(now)];
    let first = STATE.with(|state| state.slice.family);
    for turn in first..first + families.len() {
        let handed_over = families.get(turn % families.len()).and_then(|next| next());
        if handed_over.is_some() {
            STATE.with(|state| state.slice.family = (turn + 1) % families.len());
            return handed_over;
        }
    }
    None
}

/// A reply that is the server's to make now.
pub struct HandedOver {
    /// Whether the server will say when it has: not if the connection is gone.
    is_awaited: bool,
    /// How large it is at most; `None`: that is not known.
    bytes_max: Option<usize>,
}

/// Hands the reply to a connection over, if there is one; the connection may be gone already.
#[must_use]
pub fn unblock_next<A: Waits>(next: Option<(Option<Blocked>, A)>) -> Option<HandedOver> {
    let (blocked, reply) = next?;
    let bytes_max = reply.bytes_max();
    let is_awaited = blocked.is_some();
    if let Some(blocked) = blocked {
        blocked.reply(reply, made);
    }
    Some(HandedOver { is_awaited, bytes_max })
}
