//! How far clones are, how fast, and how long they still take. Pure.

use jiff::{SignedDuration, Timestamp};

use crate::{
    api::{ClusterMigrationStatus, SeedingSample, SeedingStatus, Side},
    observe::{JobState, Snapshot},
    resources::{Kind, seeding_name},
};

/// How far apart two looks are at least between which a rate is told.
const APART: SignedDuration = SignedDuration::from_secs(5);

/// Progress from the servers that send the base backups; a member that runs was cloned completely.
pub fn build_seeding(seen: &Snapshot, last: &ClusterMigrationStatus) -> Vec<SeedingStatus> {
    if last.system_identifier.is_none() {
        return Vec::new();
    }
    seen.side(Side::Target)
        .map(|member| {
            let name = member.name.to_string();
            let before = last.seeding.iter().find(|seeding| seeding.member == name);
            let complete = seen.objects.applied.contains_key(&(Kind::StatefulSet, name.clone()));
            let application = member.name.application_name();
            let sent = seen.members.iter().find_map(|upstream| {
                let mut backups = upstream.server()?.backups.iter();
                let backup = backups.find(|backup| backup.name == application)?;
                Some((upstream.name.to_string(), backup.done, backup.total.unwrap_or(0)))
            });
            let last_failure = match seen.objects.jobs.get(&seeding_name(&member.name)) {
                Some(JobState::Running(failed)) => failed.clone(),
                _ => None,
            };
            let known = before.map(|before| {
                // What a failed attempt had received is gone.
                let is_lost = last_failure.is_some() && before.last_failure != last_failure;
                let done = if is_lost { 0 } else { before.bytes_done };
                (before.from.clone(), done, before.bytes_total)
            });
            let is_sent = sent.is_some();
            let (from, done, total) = sent.or(known).unwrap_or_default();
            let seeding = SeedingStatus {
                member: name,
                from,
                bytes_done: if complete { done.max(total) } else { done },
                bytes_total: total,
                complete,
                bytes_per_second: None,
                remaining_seconds: None,
                sample: None,
                last_failure,
            };
            match before {
                // Between the last byte and the first start it is verified, which has no rate.
                _ if complete || total == 0 || !is_sent => seeding,
                Some(before) => measure(seeding, before, seen.now),
                None => measure(seeding.clone(), &seeding, seen.now),
            }
        })
        .collect()
}

/// With the rate since the last sample, half and half with the former rate.
fn measure(mut seeding: SeedingStatus, before: &SeedingStatus, now: Timestamp) -> SeedingStatus {
    let here = SeedingSample {
        time: now,
        bytes_done: seeding.bytes_done,
    };
    match &before.sample {
        // One that began anew has no rate yet.
        Some(sample) if sample.bytes_done <= seeding.bytes_done => {
            let elapsed = now.duration_since(sample.time);
            if elapsed < APART {
                seeding.sample = Some(sample.clone());
                seeding.bytes_per_second = before.bytes_per_second;
            } else {
                let sent = u128::from(seeding.bytes_done - sample.bytes_done);
                let rate = u64::try_from(sent * 1000 / elapsed.as_millis().unsigned_abs()).unwrap_or(u64::MAX);
                seeding.bytes_per_second = Some(before.bytes_per_second.map_or(rate, |former| former.midpoint(rate)));
                seeding.sample = Some(here);
            }
        }
        _ => seeding.sample = Some(here),
    }
    let left = seeding.bytes_total.saturating_sub(seeding.bytes_done);
    seeding.remaining_seconds = seeding.bytes_per_second.and_then(|rate| left.checked_div(rate));
    seeding
}

/// Mean progress of all clones in percent.
pub fn measure_progress(seeding: &[SeedingStatus]) -> Option<u64> {
    let share = |one: &SeedingStatus| {
        if one.complete {
            100
        } else {
            // A clone is complete when its Job says so, not when the estimate is reached.
            (one.bytes_done * 100).checked_div(one.bytes_total).unwrap_or(0).min(99)
        }
    };
    let count = u64::try_from(seeding.len()).ok().filter(|count| *count > 0)?;
    Some(seeding.iter().map(share).sum::<u64>() / count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn clone_of(bytes_done: u64) -> SeedingStatus {
        SeedingStatus {
            member: "shop-1".to_owned(),
            from: "a2".to_owned(),
            bytes_done,
            bytes_total: 1000,
            complete: false,
            bytes_per_second: None,
            remaining_seconds: None,
            sample: None,
            last_failure: None,
        }
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds_and_tells_how_long_it_still_takes() {
        let first = measure(clone_of(100), &clone_of(100), at(0));
        assert_eq!((first.bytes_per_second, first.remaining_seconds), (None, None));
        let early = measure(clone_of(150), &first, at(4));
        assert_eq!(
            (early.bytes_per_second, early.sample.clone()),
            (None, first.sample.clone())
        );
        let second = measure(clone_of(200), &early, at(10));
        assert_eq!(
            (second.bytes_per_second, second.remaining_seconds),
            (Some(10), Some(80))
        );
        let faster = measure(clone_of(400), &second, at(20));
        assert_eq!(
            (faster.bytes_per_second, faster.remaining_seconds),
            (Some(15), Some(40))
        );
        // The link stands still: the rate goes down until nobody knows when it ends.
        let mut still = faster;
        for round in 3..20 {
            still = measure(clone_of(400), &still, at(round * 10));
        }
        assert_eq!((still.bytes_per_second, still.remaining_seconds), (Some(0), None));
    }

    #[test]
    fn a_clone_that_begins_anew_has_no_rate_before_it_has_gone_on_for_a_while() {
        let before = measure(clone_of(200), &measure(clone_of(100), &clone_of(100), at(0)), at(10));
        let anew = measure(clone_of(50), &before, at(20));
        assert_eq!((anew.bytes_per_second, anew.remaining_seconds), (None, None));
        let on = measure(clone_of(100), &anew, at(30));
        assert_eq!((on.bytes_per_second, on.remaining_seconds), (Some(5), Some(180)));
    }

    #[test]
    fn progress_is_the_mean_of_all_and_reaches_a_hundred_only_when_all_are_complete() {
        let mut two = [clone_of(1000), clone_of(0)];
        assert_eq!(measure_progress(&two), Some(49));
        two[0].complete = true;
        assert_eq!(measure_progress(&two), Some(50));
        two[1].complete = true;
        assert_eq!(measure_progress(&two), Some(100));
        assert_eq!(measure_progress(&[]), None);
    }
}
