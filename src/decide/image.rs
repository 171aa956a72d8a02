//! Whether the target's image has what the source uses of its machine, as a probe in the cluster found out.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{Action, check::Check};
use crate::{
    api::{Finding, Severity},
    observe::{JobState, Listed, Snapshot},
    postgres::{Inventory, Server},
    resources::{Kind, build_probe, probe_name},
};

/// What an image does not have as an inventory says. The probe asks in two databases, and each answers with what it can tell.
#[derive(Debug, Default, Deserialize)]
struct Lacks {
    version: u32,
    platform: String,
    layout: BTreeMap<String, Option<String>>,
    collations: Vec<Collation>,
    locales: Vec<String>,
    extensions: BTreeMap<String, Option<String>>,
    libraries: Vec<String>,
    time_zones: Vec<String>,
    parameters: Vec<String>,
}

/// A collation that sorts otherwise there, or is not there.
#[derive(Debug, Deserialize)]
struct Collation {
    provider: String,
    locale: String,
    version: Option<String>,
    is_known: bool,
    found_version: Option<String>,
}

fn inventory(seen: &Snapshot) -> Inventory {
    match &seen.inventory {
        Listed::Seen(listing) => listing.inventory.clone(),
        Listed::NotYet | Listed::Failed(_) => Inventory::default(),
    }
}

/// The probe of this image for what the source uses now, as far as it is.
pub fn find_probe(seen: &Snapshot) -> Option<&JobState> {
    seen.objects.jobs.get(&probe_name(&seen.migration, &inventory(seen)))
}

/// The probe, where there is none for what the source uses now, or, where that is accepted, for an image of which nothing is known but that.
pub fn plan_probe(seen: &Snapshot) -> Option<Action> {
    let inventory = inventory(seen);
    let key = (Kind::Job, probe_name(&seen.migration, &inventory));
    (is_comparable(seen) && !seen.objects.applied.contains_key(&key))
        .then(|| Action::Apply(Box::new(build_probe(&seen.migration, &inventory))))
}

/// What is known of whether the copy may become primary, as far as its image is concerned.
pub enum Fitness<'a> {
    /// It may.
    Fit,
    /// What the source uses, or what the image has of that, is not known yet; with what is waited for.
    Unknown(&'static str),
    /// The image is to be compared with what the source uses by now.
    Uncompared(Action),
    /// It must not, for this.
    Unfit(&'a Finding),
}

/// Whether the copy may become primary with the image that it runs. What was accepted is known, and what is not known is not taken for fit.
pub fn judge_fitness<'a>(seen: &Snapshot, findings: &'a [Finding]) -> Fitness<'a> {
    let counts = |finding: &&Finding| {
        finding.severity == Severity::Block && Check::find(&finding.check).is_some_and(Check::spoils_the_copy)
    };
    if let Some(finding) = findings.iter().find(counts) {
        return Fitness::Unfit(finding);
    }
    if seen.inventory == Listed::NotYet {
        return Fitness::Unknown("what the source uses of its machine is read");
    }
    if let Some(probe) = plan_probe(seen) {
        return Fitness::Uncompared(probe);
    }
    match find_probe(seen) {
        None | Some(JobState::Running(_)) if is_comparable(seen) => {
            Fitness::Unknown("a probe compares the target's image with what the source uses")
        }
        _ => Fitness::Fit,
    }
}

/// Whether there is, or will be, a probe for what the source uses.
fn is_comparable(seen: &Snapshot) -> bool {
    match seen.inventory {
        Listed::Seen(_) => true,
        Listed::NotYet => false,
        Listed::Failed(_) => is_accepted(seen),
    }
}

fn is_accepted(seen: &Snapshot) -> bool {
    let accepted = Check::ImageNotCompared.as_str();
    seen.migration.spec.acknowledged.iter().any(|id| id == accepted)
}

/// What the image lacks, as findings.
pub fn find_in_image(seen: &Snapshot, source: &Server) -> Vec<Finding> {
    let mut findings = find_by_probe(seen, source);
    if let Listed::Failed(because) = &seen.inventory {
        findings.push(Check::ImageNotCompared.finding(
            None,
            format!("what the source uses was not read, and the image not compared with it: {because}"),
            "let the login of spec.source.credentials connect to every database that can be connected to",
        ));
    }
    findings
}

fn find_by_probe(seen: &Snapshot, source: &Server) -> Vec<Finding> {
    let image = &seen.migration.spec.target.image;
    let inventory = inventory(seen);
    let probe = probe_name(&seen.migration, &inventory);
    let unusable = |because: String, remedy: &str| {
        let message = format!("spec.target.image {image} {because}");
        let remedy = format!("{remedy}; to have it asked again, delete Job {probe}");
        vec![Check::TargetImage.finding(None, message, remedy)]
    };
    if let Some(problem) = seen.objects.pod_problems.get(&probe) {
        return unusable(
            format!("does not start: {problem}"),
            "name an image with PostgreSQL's programs on PATH that the nodes can pull",
        );
    }
    match seen.objects.jobs.get(&probe) {
        None | Some(JobState::Running(_)) => Vec::new(),
        Some(JobState::Failed(said)) if said.is_empty() => unusable(
            "ended without a word".to_owned(),
            "see whether its node had memory for it (a LimitRange may give it too little), or whether it was evicted",
        ),
        Some(JobState::Failed(said)) => unusable(
            format!("is not usable: {said}"),
            "name an image with PostgreSQL's programs on PATH and a POSIX shell, in which the user of spec.target.podTemplate.runAsUser has a \
             name and can run initdb",
        ),
        Some(JobState::Succeeded(said)) => match read(said) {
            Ok(lacks) => compare(image, source, &inventory, &lacks),
            Err(because) => unusable(
                format!("gave an answer that is not understood: {because}"),
                "this is not the image's fault",
            ),
        },
    }
}

/// The answers of both databases as one. A probe of nothing but the version may come from a former operator.
fn read(said: &str) -> Result<Lacks, String> {
    let mut whole = Lacks::default();
    for answer in serde_json::Deserializer::from_str(said).into_iter::<Lacks>() {
        let answer = answer.map_err(|error| error.to_string())?;
        whole.collations.extend(answer.collations);
        whole.locales.extend(answer.locales);
        whole.extensions.extend(answer.extensions);
        whole.libraries.extend(answer.libraries);
        whole.time_zones.extend(answer.time_zones);
        whole.parameters.extend(answer.parameters);
        (whole.version, whole.platform, whole.layout) = (answer.version, answer.platform, answer.layout);
    }
    match whole.version {
        0 => Err("it is empty".to_owned()),
        _ => Ok(whole),
    }
}

/// What differs between an image and what a source uses.
struct Comparison<'a> {
    image: &'a str,
    inventory: &'a Inventory,
    lacks: &'a Lacks,
    findings: Vec<Finding>,
}

fn compare(image: &str, source: &Server, inventory: &Inventory, lacks: &Lacks) -> Vec<Finding> {
    let mut comparison = Comparison {
        image,
        inventory,
        lacks,
        findings: Vec::new(),
    };
    let (major, found) = (source.major(), lacks.version / 10_000);
    if found == major {
        comparison.compare_build();
        comparison.compare_sorting();
        comparison.compare_extensions();
        comparison.compare_settings();
    } else {
        // What else differs comes from that.
        comparison.tell(
            Check::TargetVersion,
            &format!("holds PostgreSQL {found}, the source runs PostgreSQL {major}"),
            format!("name an image of PostgreSQL {major}: physical replication needs the same major version"),
        );
    }
    comparison.findings
}

impl Comparison<'_> {
    fn tell(&mut self, check: Check, message: &str, remedy: impl Into<String>) {
        let message = format!("spec.target.image {} {message}", self.image);
        self.findings.push(check.finding(None, message, remedy));
    }

    fn compare_build(&mut self) {
        if self.inventory.platform.is_empty() {
            return;
        }
        if self.inventory.platform != self.lacks.platform {
            self.tell(
                Check::Platform,
                &format!("is for {}, the source runs on {}", self.lacks.platform, self.inventory.platform),
                "name an image for the source's processor, and a nodeSelector in spec.target.podTemplate for such nodes: data files are not \
                 the same on both",
            );
        }
        for (name, found) in &self.lacks.layout {
            let found = found.as_deref().unwrap_or("none");
            let has = self.inventory.layout.get(name).map_or("", String::as_str);
            self.tell(
                Check::Platform,
                &format!("is built with {name} = {found}, the source with {has}"),
                "name an image that is built as the source is: it cannot read the source's data files",
            );
        }
    }

    fn compare_sorting(&mut self) {
        let (known, unknown): (Vec<&Collation>, Vec<&Collation>) =
            self.lacks.collations.iter().partition(|c| c.is_known);
        if !known.is_empty() {
            let version = |version: &Option<String>| version.clone().unwrap_or_else(|| "none".to_owned());
            let each = known.iter().map(|c| {
                let (there, here) = (version(&c.found_version), version(&c.version));
                format!(
                    "{} {} ({there} there, {here} on the source)",
                    name_provider(&c.provider),
                    c.locale
                )
            });
            self.tell(
                Check::CollationVersion,
                &format!("may sort otherwise: {}", list(each)),
                "name an image with the source's version of that library, for example of its distribution; or accept collation-version in \
                 spec.acknowledged and REINDEX every index of text after the switch, before clients rely on it",
            );
        }
        let missing = unknown
            .iter()
            .map(|c| format!("{} {}", name_provider(&c.provider), c.locale));
        let missing = missing.chain(self.lacks.locales.iter().map(|locale| format!("C library {locale}")));
        let missing: BTreeSet<String> = missing.collect();
        if !missing.is_empty() {
            self.tell(
                Check::Locale,
                &format!("lacks locales: {}", list(missing)),
                "add them to the image, for example with localedef or the package locales-all: without, databases cannot be connected to",
            );
        }
    }

    fn compare_extensions(&mut self) {
        let (other, absent): (Vec<_>, Vec<_>) = self.lacks.extensions.iter().partition(|(_, found)| found.is_some());
        let absent = absent.iter().map(|(name, _)| format!("extension {name}"));
        let libraries = self.lacks.libraries.iter().map(|name| format!("library {name}"));
        let absent: Vec<String> = absent.chain(libraries).collect();
        if !absent.is_empty() {
            self.tell(
                Check::ExtensionMissing,
                &format!("lacks what the source uses: {}", list(absent)),
                "add their packages to the image: functions of theirs would fail, and the server does not start without a library that \
                 shared_preload_libraries names",
            );
        }
        if !other.is_empty() {
            let each = other.iter().map(|(name, found)| {
                let has = list(self.inventory.extensions.get(*name).into_iter().flatten());
                format!(
                    "{name} ({} there, {has} on the source)",
                    found.as_deref().unwrap_or_default()
                )
            });
            self.tell(
                Check::ExtensionVersion,
                &format!("has other versions of extensions: {}", list(each)),
                "run ALTER EXTENSION ... UPDATE after the switch, or name an image with the source's versions",
            );
        }
    }

    fn compare_settings(&mut self) {
        if !self.lacks.time_zones.is_empty() {
            self.tell(
                Check::TimeZone,
                &format!("lacks time zones that settings name: {}", list(&self.lacks.time_zones)),
                "add the package tzdata, or tzdata-legacy for names of old, to the image",
            );
        }
        if !self.lacks.parameters.is_empty() {
            self.tell(
                Check::UnknownParameter,
                &format!("knows no parameter {}", list(&self.lacks.parameters)),
                "correct or remove it in spec.target.postgresql.parameters: the server would not start",
            );
        }
    }
}

fn name_provider(letter: &str) -> &'static str {
    match letter {
        "i" => "ICU",
        "b" => "builtin",
        _ => "C library",
    }
}

fn list<T: AsRef<str>>(each: impl IntoIterator<Item = T>) -> String {
    let each: Vec<T> = each.into_iter().collect();
    each.iter().map(AsRef::as_ref).collect::<Vec<&str>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{api::DesiredPhase, decide::world::World, postgres::Listing};

    fn uses() -> Listing {
        serde_json::from_value(json!({
            "platform": "x86_64", "layout": {"wal_block_size": "8192"}, "collations": [], "locales": [], "extensions": {"hstore": ["1.7", "1.8"]},
            "libraries": [], "time_zones": [], "unlogged": [], "subscriptions": [], "stale_collations": [],
        }))
        .unwrap()
    }

    fn told(lacks: &Value) -> Vec<(String, Severity, String)> {
        let world = World::new(DesiredPhase::Planned).probed(&uses(), lacks);
        let source = world.seen.member("a1").unwrap().server().unwrap();
        let findings = find_in_image(&world.seen, source);
        findings
            .into_iter()
            .map(|found| (found.check, found.severity, found.message))
            .collect()
    }

    #[test]
    fn an_image_that_lacks_nothing_has_no_finding() {
        assert_eq!(told(&json!({})), []);
    }

    #[test]
    fn each_thing_that_it_lacks_is_a_finding_of_its_own_check() {
        let collation = |is_known: bool, found: Option<&str>| json!({"collations": [{"provider": "i", "locale": "de", "version": "153.120", "is_known": is_known, "found_version": found}]});
        for (lacks, check, words) in [
            (
                json!({"platform": "aarch64"}),
                Check::Platform,
                "is for aarch64, the source runs on x86_64",
            ),
            (
                json!({"layout": {"wal_block_size": "16384"}}),
                Check::Platform,
                "wal_block_size = 16384, the source with 8192",
            ),
            (
                collation(true, Some("153.14")),
                Check::CollationVersion,
                "ICU de (153.14 there, 153.120 on the source)",
            ),
            (collation(false, None), Check::Locale, "lacks locales: ICU de"),
            (json!({"locales": ["de_DE"]}), Check::Locale, "C library de_DE"),
            (
                json!({"extensions": {"hstore": null}}),
                Check::ExtensionMissing,
                "extension hstore",
            ),
            (
                json!({"libraries": ["$libdir/postgis-3"]}),
                Check::ExtensionMissing,
                "library $libdir/postgis-3",
            ),
            (
                json!({"extensions": {"hstore": "1.9"}}),
                Check::ExtensionVersion,
                "hstore (1.9 there, 1.7, 1.8 on the source)",
            ),
            (json!({"time_zones": ["US/Eastern"]}), Check::TimeZone, "US/Eastern"),
            (
                json!({"parameters": ["work_memory"]}),
                Check::UnknownParameter,
                "knows no parameter work_memory",
            ),
        ] {
            let told = told(&lacks);
            assert!(
                matches!(&told[..], [(id, _, message)] if id == check.as_str() && message.contains(words)),
                "{words}: {told:?}"
            );
        }
        let wrong = told(&json!({"version": 160_001, "extensions": {"hstore": null}}));
        assert!(
            matches!(&wrong[..], [(id, _, _)] if id == "target-version"),
            "{wrong:?}"
        );
    }

    /// What is decided on a copy whose image lacks this, and of which this was accepted.
    fn judge(lacks: &Value, accepted: &str, change: fn(&mut World)) -> String {
        let mut world = World::new(DesiredPhase::Switched).probed(&uses(), lacks);
        world.seen.migration.spec.acknowledged = vec![accepted.to_owned()];
        change(&mut world);
        let source = world.seen.member("a1").unwrap().server().unwrap();
        let mut findings = find_in_image(&world.seen, source);
        crate::decide::check::accept(&mut findings, &world.seen.migration.spec.acknowledged);
        match judge_fitness(&world.seen, &findings) {
            Fitness::Fit => "fit".to_owned(),
            Fitness::Unknown(_) => "unknown".to_owned(),
            Fitness::Uncompared(_) => "uncompared".to_owned(),
            Fitness::Unfit(finding) => finding.check.clone(),
        }
    }

    #[test]
    fn what_spoils_a_copy_keeps_a_switch_from_beginning_until_it_is_accepted() {
        let nothing: fn(&mut World) = |_| {};
        let lacks = json!({"extensions": {"hstore": null}});
        assert_eq!(judge(&json!({"extensions": {"hstore": "1.9"}}), "", nothing), "fit");
        assert_eq!(judge(&lacks, "", nothing), "extension-missing");
        assert_eq!(judge(&lacks, "extension-missing", nothing), "fit");
    }

    #[test]
    fn what_is_not_known_of_an_image_is_not_taken_for_good() {
        let none = json!({});
        assert_eq!(
            judge(&none, "", |world| world.seen.inventory = Listed::NotYet),
            "unknown"
        );
        // Something was made on the source since, or the Job's time is over.
        assert_eq!(
            judge(&none, "", |world| world.seen.objects.applied.clear()),
            "uncompared"
        );
        let running: fn(&mut World) = |world| {
            for job in world.seen.objects.jobs.values_mut() {
                *job = JobState::Running(None);
            }
        };
        assert_eq!(judge(&none, "", running), "unknown");
        let failed: fn(&mut World) = |world| {
            for job in world.seen.objects.jobs.values_mut() {
                *job = JobState::Failed(String::new());
            }
        };
        assert_eq!(judge(&none, "", failed), "target-image");
        let unread: fn(&mut World) = |world| world.seen.inventory = Listed::Failed("no login".to_owned());
        assert_eq!(judge(&none, "", unread), "image-not-compared");
        assert_eq!(judge(&none, "image-not-compared", unread), "fit");
    }

    #[test]
    fn the_answers_of_both_databases_are_one_and_none_is_no_answer() {
        let one = |collations: &str, time_zones: &str| {
            format!(
                r#"{{"version": 150004, "platform": "x86_64", "layout": {{}}, "collations": [{collations}], "locales": [], "extensions": {{}},
                "libraries": [], "time_zones": [{time_zones}], "parameters": []}}"#
            )
        };
        let collation =
            r#"{"provider": "i", "locale": "de", "version": null, "is_known": false, "found_version": null}"#;
        let both = read(&format!("{}\n{}\n", one("", "\"Mars\""), one(collation, ""))).unwrap();
        assert_eq!((both.collations.len(), both.time_zones), (1, vec!["Mars".to_owned()]));
        assert!(read("").unwrap_err().contains("empty"));
        assert!(read("postgres (PostgreSQL) 15.4").is_err());
    }

    #[test]
    fn another_inventory_or_another_image_is_another_probe() {
        let mut world = World::new(DesiredPhase::Planned);
        assert!(plan_probe(&world.seen).is_none());
        world.seen.inventory = Listed::Seen(Box::new(uses()));
        assert!(plan_probe(&world.seen).is_some());
        world.seen.inventory = Listed::NotYet;
        assert!(plan_probe(&world.seen).is_none(), "it would be one of nothing");
    }
}
