//! How fast the leader catches up with what is written. Pure.

use jiff::SignedDuration;

use crate::{
    api::{CatchUpSample, CatchUpStatus, Phase, Side},
    observe::{Member, Snapshot},
    postgres::Lsn,
};

/// How far apart two looks are at least between which rates are told.
const APART: SignedDuration = SignedDuration::from_secs(5);
/// Distance from which on it is of interest how long it takes; less is what every busy server has.
const FAR: u64 = 16 << 20;

/// Rates of writing and of replay, while the source is primary and both servers are seen; smoothed over the last half minute or so.
pub fn build_catch_up(seen: &Snapshot, last: Option<&CatchUpStatus>) -> Option<CatchUpStatus> {
    let [primary] = seen.primaries()[..] else {
        return None;
    };
    let leader = find_follower(seen, primary)?;
    let (written, replayed) = (primary.server()?.lsn?, leader.server()?.lsn?);
    let here = CatchUpSample {
        time: seen.now,
        written: written.to_string(),
        replayed: replayed.to_string(),
    };
    let first = || CatchUpStatus {
        written_bytes_per_second: None,
        replayed_bytes_per_second: None,
        remaining_seconds: None,
        sample: here.clone(),
    };
    let Some(last) = last else { return Some(first()) };
    let elapsed = seen.now.duration_since(last.sample.time);
    let stands_still = last.sample.written == here.written && last.sample.replayed == here.replayed;
    if elapsed < APART || (stands_still && written == replayed) {
        return Some(last.clone());
    }
    let since = |text: &str, now: Lsn| Some(now.bytes_after(text.parse::<Lsn>().ok()?));
    let (Some(wrote), Some(replays)) = (
        since(&last.sample.written, written),
        since(&last.sample.replayed, replayed),
    ) else {
        return Some(first());
    };
    let rate = |bytes: u64, former: Option<u64>| {
        let rate = u128::from(bytes) * 1000 / elapsed.as_millis().unsigned_abs();
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        former.map_or(rate, |former| former.midpoint(rate))
    };
    let writes = rate(wrote, last.written_bytes_per_second);
    let replays = rate(replays, last.replayed_bytes_per_second);
    let behind = written.bytes_after(replayed);
    Some(CatchUpStatus {
        written_bytes_per_second: Some(writes),
        replayed_bytes_per_second: Some(replays),
        remaining_seconds: (behind >= FAR)
            .then(|| behind.checked_div(replays.saturating_sub(writes)))
            .flatten(),
        sample: here,
    })
}

/// The leader, while it is to follow the source.
fn find_follower<'a>(seen: &'a Snapshot, primary: &Member) -> Option<&'a Member> {
    let is_over = seen
        .migration
        .status
        .as_ref()
        .is_some_and(|status| status.phase == Phase::Completed);
    seen.leader().filter(|_| primary.side == Side::Source && !is_over)
}

/// Lag of the leader behind the primary, with how long it lasts where that is of interest.
pub fn describe_lag(seen: &Snapshot, catch_up: Option<&CatchUpStatus>) -> Option<String> {
    let [primary] = seen.primaries()[..] else {
        return None;
    };
    let leader = find_follower(seen, primary)?;
    let behind = primary.server()?.lsn?.bytes_after(leader.server()?.lsn?);
    if behind < FAR {
        return Some(format!("{behind} B"));
    }
    let left = match catch_up.map(|catch_up| (catch_up.remaining_seconds, catch_up.replayed_bytes_per_second)) {
        Some((Some(seconds), _)) => format!(", {} min left", seconds.div_ceil(60)),
        Some((None, Some(_))) => ", never at this rate".to_owned(),
        _ => String::new(),
    };
    Some(format!("{} MiB{left}", behind >> 20))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::DesiredPhase, decide::world::World};

    /// The world some seconds later, with this written and replayed, in MiB.
    fn look(world: &mut World, seconds: i64, written: u64, replayed: u64) -> Option<String> {
        let at = |mebibytes: u64| {
            format!(
                "{:X}/{:X}",
                1 + (mebibytes << 20 >> 32),
                (mebibytes << 20) & 0xFFFF_FFFF
            )
        };
        world.pass(seconds);
        world.change("a1", |a1| a1.lsn = at(written).parse().ok());
        world.change("shop-1", |leader| leader.lsn = at(replayed).parse().ok());
        let last = world.status().catch_up.take();
        let next = build_catch_up(&world.seen, last.as_ref());
        let lag = describe_lag(&world.seen, next.as_ref());
        world.status().catch_up = next;
        lag
    }

    fn behind() -> World {
        let mut world = World::new(DesiredPhase::Replicating);
        world.set("shop-1", crate::decide::world::server(true));
        world
    }

    #[test]
    fn a_leader_that_replays_faster_than_is_written_catches_up_in_a_time() {
        let mut world = behind();
        assert_eq!(look(&mut world, 0, 1000, 100).unwrap(), "900 MiB");
        assert_eq!(
            look(&mut world, 2, 1000, 100).unwrap(),
            "900 MiB",
            "two seconds tell no rate"
        );
        // 1 MiB/s is written, 11 MiB/s are replayed.
        assert_eq!(look(&mut world, 8, 1010, 210).unwrap(), "800 MiB, 2 min left");
        assert_eq!(world.status().catch_up.as_ref().unwrap().remaining_seconds, Some(80));
        assert_eq!(look(&mut world, 10, 1020, 1019).unwrap(), "1048576 B");
    }

    #[test]
    fn one_that_replays_more_slowly_never_does_at_this_rate() {
        let mut world = behind();
        look(&mut world, 0, 1000, 100);
        assert_eq!(look(&mut world, 10, 1100, 150).unwrap(), "950 MiB, never at this rate");
    }
}
