//! What a source uses of its machine, and what an image lacks of that.

use std::process::Command;

use mitosis::postgres::{Collation, Inventory, fetch_listing};
use serde_json::{Value, json};

use super::servers::{Server, path};

/// What the probe in the target's image says where the image is this machine.
fn probe(inventory: &Inventory, parameters: &[&str]) -> Vec<Value> {
    let folder = tempfile::tempdir().unwrap();
    let answer = folder.path().join("answer");
    std::fs::write(&answer, "").unwrap();
    let opened = Command::new("chown")
        .args(["-R", "postgres:postgres"])
        .arg(folder.path())
        .status();
    assert!(opened.unwrap().success());
    let output = Command::new("setpriv")
        .args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "sh", "-c"])
        .arg(include_str!("../../src/resources/probe.sh"))
        .arg("probe")
        .arg(&answer)
        .arg(json!(inventory).to_string())
        .arg(json!(parameters).to_string())
        .arg(include_str!("../../src/resources/probe.sql"))
        .env("PATH", path())
        .current_dir("/")
        .output()
        .unwrap();
    let said = std::fs::read_to_string(&answer).unwrap();
    assert!(
        output.status.success(),
        "{said} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let answers = serde_json::Deserializer::from_str(&said).into_iter();
    answers.collect::<Result<_, _>>().unwrap()
}

/// Everything of one kind in the answers of both databases.
fn all(answers: &[Value], kind: &str) -> Vec<String> {
    let each = answers.iter().flat_map(|answer| match &answer[kind] {
        Value::Array(list) => list
            .iter()
            .map(|one| one.as_str().map_or(one["locale"].to_string(), ToOwned::to_owned))
            .collect(),
        Value::Object(object) => object.keys().cloned().collect(),
        other => vec![other.to_string()],
    });
    let mut each: Vec<String> = each.collect();
    each.sort();
    each.dedup();
    each
}

#[tokio::test]
async fn what_a_source_uses_is_listed_from_every_database_and_an_image_like_it_lacks_nothing() {
    let source = Server::primary();
    let session = source.session_of("user").await;
    session.batch_execute("CREATE DATABASE other").await.unwrap();
    // A locale without a version, which not every machine has.
    let utf8 = "CREATE DATABASE third TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C.UTF-8' LC_CTYPE 'C.UTF-8'";
    let _ = session.batch_execute(utf8).await;
    // One that ICU sorts as a whole, which there is from PostgreSQL 15 on.
    let icu_database = "CREATE DATABASE fourth TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'fr'";
    let has_icu_database = session.batch_execute(icu_database).await.is_ok();
    session
        .batch_execute("ALTER ROLE mitosis IN DATABASE other SET timezone = 'Europe/Berlin'")
        .await
        .unwrap();
    let other = source.session_in("other").await;
    other
        .batch_execute("CREATE UNLOGGED TABLE cache (name text); CREATE INDEX ON cache (name COLLATE \"C\")")
        .await
        .unwrap();
    let older = "UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'plpgsql'";
    other.batch_execute(older).await.unwrap();
    let icu = other
        .query("SELECT FROM pg_collation WHERE collname = 'de-x-icu'", &[])
        .await
        .unwrap();
    if !icu.is_empty() {
        other
            .batch_execute("CREATE INDEX ON cache (name COLLATE \"de-x-icu\")")
            .await
            .unwrap();
    }
    let listing = fetch_listing(&Server::login(), &source.address()).await.unwrap();
    assert_eq!(listing.unlogged, ["public.cache of other"]);
    assert_eq!((&listing.subscriptions, &listing.stale_collations), (&vec![], &vec![]));
    let inventory = &listing.inventory;
    assert!(inventory.time_zones.contains("Europe/Berlin"), "{inventory:?}");
    // Each database has its own.
    let versions = inventory.extensions["plpgsql"].iter().map(String::as_str);
    assert_eq!(versions.collect::<Vec<_>>(), ["0.9", "1.0"]);
    assert_eq!(inventory.layout["database_block_size"], "8192");
    let sorted: Vec<&str> = inventory.collations.iter().map(|c| c.provider.as_str()).collect();
    assert_eq!(sorted.contains(&"i"), !icu.is_empty(), "{inventory:?}");
    let of_database = inventory.collations.iter().find(|c| c.locale == "fr");
    let version = of_database.and_then(|c| c.version.as_ref());
    assert_eq!(version.is_some(), has_icu_database, "{inventory:?}");

    let mut inventory = inventory.clone();
    inventory.extensions.get_mut("plpgsql").unwrap().remove("0.9");
    for answer in probe(&inventory, &["work_mem", "pg_stat_statements.max"]) {
        for kind in [
            "layout",
            "collations",
            "locales",
            "extensions",
            "libraries",
            "time_zones",
            "parameters",
        ] {
            assert_eq!(
                all(std::slice::from_ref(&answer), kind),
                Vec::<String>::new(),
                "{kind}: {answer}"
            );
        }
    }
}

#[tokio::test]
async fn each_thing_that_an_image_lacks_is_told() {
    let collation = |provider: &str, locale: &str, version: &str| Collation {
        provider: provider.to_owned(),
        locale: locale.to_owned(),
        version: Some(version.to_owned()),
    };
    let inventory = Inventory {
        platform: "vax".to_owned(),
        layout: [("wal_block_size".to_owned(), "16384".to_owned())].into(),
        collations: [collation("c", "C.UTF-8", "0.1"), collation("c", "xx_XX", "2.36")].into(),
        locales: ["C".to_owned(), "yy_YY".to_owned()].into(),
        extensions: [
            ("plpgsql".to_owned(), ["0.9".to_owned(), "1.0".to_owned()].into()),
            ("no_such".to_owned(), ["1.0".to_owned()].into()),
        ]
        .into(),
        libraries: [
            "$libdir/plpgsql".to_owned(),
            "$libdir/no_such-3".to_owned(),
            "no_such".to_owned(),
        ]
        .into(),
        time_zones: ["Etc/UTC".to_owned(), "Mars/Olympus".to_owned()].into(),
    };
    let answers = probe(&inventory, &["work_mem", "work_memory"]);
    for (kind, lacks) in [
        ("layout", vec!["wal_block_size"]),
        ("collations", vec!["\"C.UTF-8\"", "\"xx_XX\""]),
        ("locales", vec!["yy_YY"]),
        ("extensions", vec!["no_such", "plpgsql"]),
        ("libraries", vec!["$libdir/no_such-3", "no_such"]),
        ("time_zones", vec!["Mars/Olympus"]),
        ("parameters", vec!["work_memory"]),
    ] {
        assert_eq!(all(&answers, kind), lacks, "{kind}");
    }
}

#[tokio::test]
async fn indexes_that_were_sorted_by_other_rules_than_the_libraries_have_now_are_told() {
    let source = Server::primary();
    let session = source.session_of("user").await;
    let version = session
        .query_one("SELECT current_setting('server_version_num')::int", &[])
        .await
        .unwrap();
    if version.get::<_, i32>(0) >= 150_000 {
        session
            .batch_execute("UPDATE pg_database SET datcollversion = '0.1' WHERE datname = 'postgres'")
            .await
            .unwrap();
        let listing = fetch_listing(&Server::login(), &source.address()).await.unwrap();
        assert_eq!(listing.stale_collations, ["database postgres"]);
    }
}
