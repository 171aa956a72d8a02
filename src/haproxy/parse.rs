//! Reading a configuration that this version of Mitosis rendered.

use std::{collections::BTreeSet, time::Duration};

use super::{Configuration, Form, Route, RouteKind, State};
use crate::address::Address;

impl Configuration {
    /// The configuration that renders to exactly this text.
    ///
    /// # Errors
    /// A sentence: the text was written by hand or by another version of Mitosis.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (mut form, mut generation) = (None, None);
        let mut state = None;
        let mut routes: Vec<Route> = Vec::new();
        let (mut name, mut listen, mut kind) = (None, None, None);
        for line in text.lines().map(str::trim) {
            let words: Vec<&str> = line.trim_start_matches("# ").split(' ').collect();
            form = Form::ALL.into_iter().find(|form| form.mark() == line).or(form);
            kind = RouteKind::ALL.into_iter().find(|kind| kind.mark() == line).or(kind);
            match words[..] {
                ["setenv", "MITOSIS_GENERATION", number] => generation = number.parse().ok(),
                [word] if state.is_none() => state = word.parse::<State>().ok(),
                ["frontend", text, "from", _] => name = text.strip_prefix("fe_").map(str::parse).transpose()?,
                ["bind", bind, ..] => listen = bind.rsplit(':').next().map(str::parse).transpose()?,
                ["backend", _, "from", _] => {
                    routes.push(Route {
                        name: name.take().ok_or("a backend has no frontend before it")?,
                        listen: listen.take().ok_or("a frontend has no port")?,
                        to: Vec::new(),
                        left_out: BTreeSet::new(),
                        drain: Duration::ZERO,
                        kind: RouteKind::Static,
                    });
                    kind = None;
                }
                ["route", text, port] => {
                    routes.push(Route {
                        name: text.parse()?,
                        listen: port.parse()?,
                        to: Vec::new(),
                        left_out: BTreeSet::new(),
                        drain: Duration::ZERO,
                        kind: RouteKind::Static,
                    });
                    kind = None;
                }
                ["drained", "within", time] => {
                    let route = routes.last_mut().ok_or("a drain is of no route")?;
                    let time = time.strip_suffix("ms").and_then(|time| time.parse().ok());
                    route.drain = Duration::from_millis(time.ok_or("a drain has no time")?);
                }
                ["server", "none", _] | ["setenv", _, "127.0.0.1:9"] => {}
                ["setenv", _, address] => {
                    let route = routes.last_mut().ok_or("a variable is of no route")?;
                    route.kind = kind.ok_or("a variable does not say what it leads to")?;
                    route.to.push(address.parse()?);
                }
                ["server", _, address, ..] => {
                    let route = routes.last_mut().ok_or("a server is outside of a backend")?;
                    route.kind = kind.ok_or("a backend does not say what it leads to")?;
                    let address: Address = address.parse()?;
                    if words.last() == Some(&"disabled") {
                        route.left_out.insert(address.clone());
                    }
                    route.to.push(address);
                }
                _ => {}
            }
        }
        let configuration = Self::new(
            form.ok_or("it does not say how much of the configuration it is")?,
            generation.ok_or("MITOSIS_GENERATION is not set")?,
            state.ok_or("it does not say open or held")?,
            routes,
        )?;
        // Whatever this reader overlooked shows here.
        if configuration.render() == text {
            Ok(configuration)
        } else {
            Err("it was changed by hand or written by another version of mitosis".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::{
        address::{Host, Port},
        haproxy::RouteName,
    };

    fn addresses(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Address>> {
        let host = prop_oneof![
            any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
            any::<std::net::Ipv6Addr>().prop_map(|ip| ip.to_string()),
            "[a-z]([-a-z0-9]{0,20}[a-z0-9])?(\\.[a-z]{1,9}){0,3}",
        ];
        let address = (host, 1..=u16::MAX).prop_map(|(host, port)| Address::new(&host, port).unwrap());
        vec(address, count)
    }

    fn configuration() -> impl Strategy<Value = Configuration> {
        let kind = prop_oneof![
            (Just(RouteKind::Primary), addresses(1..2)),
            (Just(RouteKind::Replicas), addresses(1..5)),
            (Just(RouteKind::Pooler), addresses(1..5)),
            (Just(RouteKind::Static), addresses(1..5)),
        ];
        let name = "[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?";
        let routes = proptest::collection::btree_map(1..=u16::MAX, (name, kind, any::<u8>()), 1..6);
        let form = proptest::sample::select(&Form::ALL);
        (form, any::<u64>(), any::<bool>(), routes).prop_filter_map(
            "names differ",
            |(form, generation, held, routes)| {
                let routes = routes.into_iter().map(|(port, (name, (kind, to), left_out))| Route {
                    name: name.parse().unwrap(),
                    listen: port.try_into().unwrap(),
                    drain: match kind {
                        RouteKind::Static => Duration::from_millis(u64::from(left_out) * 37),
                        _ => Duration::ZERO,
                    },
                    left_out: match kind {
                        RouteKind::Replicas => {
                            let chosen = to.iter().enumerate().filter(|(index, _)| left_out & (1 << index) != 0);
                            let standbys = chosen.filter(|(index, _)| index + 1 < to.len());
                            standbys.map(|(_, address)| address.clone()).collect()
                        }
                        _ => BTreeSet::new(),
                    },
                    to,
                    kind,
                });
                let state = if held { State::Held } else { State::Open };
                Configuration::new(form, generation, state, routes.collect()).ok()
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_rendered_is_read_back(configuration in configuration()) {
            let text = configuration.render();
            prop_assert!(text.ends_with('\n'));
            prop_assert_eq!(Configuration::parse(&text).unwrap(), configuration);
        }

        #[test]
        fn hostile_text_never_becomes_a_name_or_an_address(
            before in "[a-z0-9]{0,5}",
            evil in "[^-a-z0-9.:]",
            after in ".{0,5}",
        ) {
            prop_assume!(!evil.chars().all(|c| c.is_ascii_alphanumeric()));
            let text = format!("{before}{evil}{after}");
            prop_assert!(text.parse::<RouteName>().is_err());
            prop_assert!(text.parse::<Host>().is_err());
            prop_assert!(text.parse::<Port>().is_err());
            let address = format!("{text}:80");
            prop_assert!(address.parse::<Address>().is_err() || text.starts_with('['));
        }

        #[test]
        fn any_text_is_refused_or_read_exactly(text in ".*") {
            if let Ok(configuration) = Configuration::parse(&text) {
                prop_assert_eq!(configuration.render(), text);
            }
        }
    }

    #[test]
    fn names_that_could_end_a_word_are_refused() {
        for wrong in [
            "",
            "-a",
            "a-",
            "A",
            "a b",
            "a\n",
            "a;b",
            "a_b",
            "ä",
            "a/b",
            "sixteen-letters0",
            "${X}",
            "a#",
        ] {
            assert!(wrong.parse::<RouteName>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_line_added_by_hand_is_noticed() {
        let route = Route {
            name: "write".parse().unwrap(),
            listen: 5432.try_into().unwrap(),
            to: vec!["10.0.0.1:5432".parse().unwrap()],
            left_out: BTreeSet::new(),
            drain: Duration::ZERO,
            kind: RouteKind::Primary,
        };
        let text = Configuration::new(Form::Whole, 1, State::Held, vec![route])
            .unwrap()
            .render();
        assert!(Configuration::parse(&text).is_ok());
        assert!(Configuration::parse(&(text.clone() + "    server x 10.0.0.9:1\n")).is_err());
        assert!(Configuration::parse(text.trim_end()).is_err());
    }

    #[test]
    fn routes_that_exclude_each_other_are_refused() {
        let route = |name: &str, port: u16, to: &[&str], kind| Route {
            name: name.parse().unwrap(),
            listen: port.try_into().unwrap(),
            to: to.iter().map(|text| text.parse().unwrap()).collect(),
            left_out: BTreeSet::new(),
            drain: Duration::ZERO,
            kind,
        };
        let refused = |routes| Configuration::new(Form::Whole, 1, State::Open, routes).unwrap_err();
        let one = || route("write", 1, &["a:1"], RouteKind::Primary);
        assert!(refused(vec![]).contains("add a route"));
        assert!(refused(vec![one(), route("write", 2, &["a:1"], RouteKind::Static)]).contains("rename"));
        assert!(refused(vec![one(), route("web", 1, &["a:1"], RouteKind::Static)]).contains("port 1"));
        assert!(refused(vec![route("write", 1, &["a:1", "b:1"], RouteKind::Primary)]).contains("one address"));
        assert!(refused(vec![route("read", 1, &[], RouteKind::Replicas)]).contains("nowhere"));
        for (address, to) in [
            ("b:1", ["a:1", "b:1"]),
            ("a:1", ["a:1", "a:1"]),
            ("c:1", ["a:1", "b:1"]),
        ] {
            let mut readers = route("read", 1, &to, RouteKind::Replicas);
            readers.left_out.insert(address.parse().unwrap());
            assert!(refused(vec![readers]).contains("none of its standbys"), "{address}");
        }
    }
}
