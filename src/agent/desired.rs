//! What the ConfigMap asks for.

use std::collections::BTreeMap;

use crate::haproxy::{Configuration, RouteName, State};

/// Key of the file for HAProxy.
pub const ROUTING_KEY: &str = "haproxy.cfg";
const GENERATION: &str = "generation";
const STATE: &str = "state";
const HELD: &str = "held-routes";

/// The data of the ConfigMap, from which the operator makes it and the agent reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// Key `generation`: a number that each change raises.
    pub generation: u64,
    /// Key `state`: `open` or `held`.
    pub state: State,
    /// Key `held-routes`: names of the routes to hold, with commas between; empty while open.
    pub held: Vec<RouteName>,
    /// Key `haproxy.cfg`: the whole file. While held it leads the held routes nowhere.
    pub configuration: String,
}

impl From<&Configuration> for Desired {
    fn from(configuration: &Configuration) -> Self {
        Self {
            generation: configuration.generation(),
            state: configuration.state(),
            held: configuration.held(),
            configuration: configuration.render(),
        }
    }
}

impl Desired {
    /// The data for the ConfigMap.
    #[must_use]
    pub fn to_data(&self) -> BTreeMap<String, String> {
        let held: Vec<&str> = self.held.iter().map(RouteName::as_str).collect();
        [
            (ROUTING_KEY, self.configuration.clone()),
            (GENERATION, self.generation.to_string()),
            (STATE, self.state.as_str().to_owned()),
            (HELD, held.join(",")),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into()
    }

    /// Reads the data of the ConfigMap.
    ///
    /// # Errors
    /// A sentence that names the key that is missing or wrong.
    pub fn from_data(data: &BTreeMap<String, String>) -> Result<Self, String> {
        let key = |key: &str| {
            data.get(key)
                .ok_or_else(|| format!("the ConfigMap has no key {key}: add it"))
        };
        let generation = key(GENERATION)?;
        let state: State = key(STATE)?.parse()?;
        let held: Result<Vec<RouteName>, String> = key(HELD)?
            .split(',')
            .filter(|name| !name.is_empty())
            .map(str::parse)
            .collect();
        let held = held?;
        if (state == State::Held) == held.is_empty() {
            return Err(format!(
                "state `{}` does not fit {HELD}: name the routes while held only",
                state.as_str()
            ));
        }
        Ok(Self {
            generation: generation
                .parse()
                .map_err(|_| format!("`{}` is no generation: write a whole number", generation.escape_debug()))?,
            state,
            held,
            configuration: key(ROUTING_KEY)?.clone(),
        })
    }
}

/// What one ConfigMap asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The uid of the ConfigMap: generations are compared within one object only.
    pub uid: String,
    /// Its data.
    pub desired: Desired,
}

impl Wish {
    /// Whether this has the number of `former` and is not the same.
    #[must_use]
    pub fn conflicts_with(&self, former: &Self) -> bool {
        self.uid == former.uid && self.desired.generation == former.desired.generation && self != former
    }

    /// Whether this comes after `former`. A wish equal to it changes nothing.
    ///
    /// # Errors
    /// A sentence: it is older, or something changed while the generation did not.
    pub fn follows(&self, former: &Self) -> Result<bool, String> {
        let (new, old) = (self.desired.generation, former.desired.generation);
        if self == former {
            Ok(false)
        } else if self.uid != former.uid || new > old {
            Ok(true)
        } else if self.conflicts_with(former) {
            Err(format!(
                "the ConfigMap changed within generation {old}: raise its generation"
            ))
        } else {
            Err(format!(
                "the ConfigMap went back from generation {old} to {new}: raise its generation above {old}"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(generation: u64) -> Desired {
        Desired {
            generation,
            state: State::Held,
            held: vec!["write".parse().unwrap(), "read".parse().unwrap()],
            configuration: "global\n".to_owned(),
        }
    }

    #[test]
    fn data_is_read_as_it_is_written() {
        assert_eq!(Desired::from_data(&held(7).to_data()).unwrap(), held(7));
        let open = Desired {
            state: State::Open,
            held: vec![],
            ..held(8)
        };
        assert_eq!(Desired::from_data(&open.to_data()).unwrap(), open);
    }

    #[test]
    fn nothing_but_names_of_routes_reaches_the_socket() {
        for (key, wrong) in [
            (HELD, "write;quit"),
            (HELD, "write\n"),
            (HELD, ""),
            (GENERATION, "-1"),
            (STATE, "Open"),
            (STATE, "open"),
        ] {
            let mut data = held(7).to_data();
            data.insert(key.to_owned(), wrong.to_owned());
            assert!(Desired::from_data(&data).is_err(), "{key} {wrong:?}");
            data.remove(key);
            assert!(Desired::from_data(&data).unwrap_err().contains(key), "{key}");
        }
    }

    #[test]
    fn generations_never_go_back_within_one_object() {
        let wish = |uid: &str, desired| Wish {
            uid: uid.to_owned(),
            desired,
        };
        let former = wish("a", held(7));
        assert_eq!(wish("a", held(7)).follows(&former), Ok(false));
        assert_eq!(wish("a", held(8)).follows(&former), Ok(true));
        assert_eq!(wish("b", held(1)).follows(&former), Ok(true));
        assert!(wish("a", held(6)).follows(&former).is_err());
        let changed = Desired {
            configuration: String::new(),
            ..held(7)
        };
        assert!(wish("a", changed).follows(&former).is_err());
    }
}
