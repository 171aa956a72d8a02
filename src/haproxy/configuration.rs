//! The configuration of HAProxy, rendered from typed values only.

use std::{collections::BTreeSet, fmt::Write as _, str::FromStr, time::Duration};

use super::RouteName;
use crate::address::{Address, Port};

/// Whether clients are let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Every route leads to its servers.
    Open,
    /// The routes to PostgreSQL, and to poolers before it, lead nowhere; the agent keeps new clients waiting. Static routes stay open.
    Held,
}

impl State {
    /// The word for it in the ConfigMap.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Held => "held",
        }
    }
}

impl FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "open" => Ok(Self::Open),
            "held" => Ok(Self::Held),
            _ => Err(format!("`{}` is no state: write open or held", text.escape_debug())),
        }
    }
}

/// How much of HAProxy's configuration this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// All of it.
    Whole,
    /// A file beside those of the user, whose `global` section stays theirs.
    Included,
    /// A file before those of the user, with a variable for each route. The user's own backend has one server, whose address it is.
    Variables,
    /// As `Included`, for a HAProxy without an agent: no socket, and HAProxy itself tells which generation it runs.
    Mounted,
    /// As `Variables`, for a HAProxy without an agent.
    MountedVariables,
}

impl Form {
    pub(super) const ALL: [Self; 5] = [
        Self::Whole,
        Self::Included,
        Self::Variables,
        Self::Mounted,
        Self::MountedVariables,
    ];

    /// Where the file makes an agent's HAProxy listen for commands, as HAProxy's word. The user's files may have a socket of their own.
    const fn admin_socket(self) -> Option<&'static str> {
        match self {
            Self::Whole => Some("\"${MITOSIS_SOCKET-/run/haproxy/admin.sock}\""),
            Self::Included | Self::Variables => Some("\"${MITOSIS_SOCKET-/run/haproxy/mitosis.sock}\""),
            Self::Mounted | Self::MountedVariables => None,
        }
    }

    /// Whether each route is a variable for a server line of the user's.
    #[must_use]
    pub const fn is_variables(self) -> bool {
        matches!(self, Self::Variables | Self::MountedVariables)
    }

    /// The comment by which `parse` knows the form.
    pub(super) const fn mark(self) -> &'static str {
        match self {
            Self::Whole => "# The whole configuration.",
            Self::Included => "# Routes beside the user's own configuration.",
            Self::Variables => "# Addresses for server s1 of the user's own backends.",
            Self::Mounted => "# Routes beside the user's own configuration, without an agent.",
            Self::MountedVariables => "# Addresses for server lines of the user's own backends, without an agent.",
        }
    }
}

/// What a route leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// The one writable PostgreSQL server: a dead address is retried, sessions are never balanced.
    Primary,
    /// Standbys in turn, and the last address, the primary's, when none of them answers; the sessions of one that dies are ended.
    Replicas,
    /// A pooler that leads to the primary.
    Pooler,
    /// Any TCP service; never held.
    Static,
}

impl RouteKind {
    pub(super) const ALL: [Self; 4] = [Self::Primary, Self::Replicas, Self::Pooler, Self::Static];

    /// Whether a hold concerns routes of this kind.
    #[must_use]
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Primary | Self::Replicas | Self::Pooler)
    }

    /// The comment by which `parse` knows the kind of a backend.
    pub(super) const fn mark(self) -> &'static str {
        match self {
            Self::Primary => "# the primary",
            Self::Replicas => "# replicas",
            Self::Pooler => "# poolers of the primary",
            Self::Static => "# fixed addresses",
        }
    }
}

/// One port that HAProxy listens on and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its name; the frontend is `fe_NAME`, the backend `be_NAME`.
    pub name: RouteName,
    /// TCP port that HAProxy listens on.
    pub listen: Port,
    /// Where it leads: one address for a primary, at least one otherwise.
    pub to: Vec<Address>,
    /// Standbys among them that are left out for now: readers would see there what is no longer so.
    pub left_out: BTreeSet<Address>,
    /// How long sessions go on where the route does not lead any more: none but of a static route, whose sessions no hold ends.
    pub drain: Duration,
    /// What is there.
    pub kind: RouteKind,
}

/// A complete configuration of HAProxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration {
    form: Form,
    generation: u64,
    state: State,
    routes: Vec<Route>,
}

/// What the routes need of HAProxy, by a name of their own.
const DEFAULTS: &str = "
defaults mitosis
    mode tcp
    timeout connect 1s
    timeout client 24h
    timeout server 24h
    # Links die silently: the kernel asks the peer.
    option clitcpka
    option srvtcpka
    default-server init-addr libc,none
    # What another configuration had set of a server is none of this one's.
    load-server-state-from-file none
";

/// The first line of every configuration.
pub const MARK: &str = "# Written by mitosis: changes made here by hand are lost.";
/// Where an agent, or a HAProxy without one, tells what HAProxy runs.
pub const REPORT_PORT: u16 = 8405;

/// How long sessions of a former configuration live at least.
const LAST_SESSIONS: Duration = Duration::from_secs(1);

const INFALLIBLE: &str = "a String takes every write";

/// Connections that HAProxy takes at most, in all and on each frontend.
pub(super) const MAXCONN: u32 = 5000;

impl Configuration {
    /// A configuration of these routes.
    ///
    /// # Errors
    /// A sentence: there is no route, a name or port is used twice, or a route leads to too few or too many addresses.
    pub fn new(form: Form, generation: u64, state: State, routes: Vec<Route>) -> Result<Self, String> {
        if routes.is_empty() {
            return Err("HAProxy would listen on no port: add a route".to_owned());
        }
        let (mut names, mut ports) = (BTreeSet::new(), BTreeSet::new());
        for route in &routes {
            if !names.insert(&route.name) {
                return Err(format!("two routes are named {}: rename one", route.name));
            }
            if !ports.insert(route.listen) {
                return Err(format!("two routes listen on port {}: change one", route.listen));
            }
            match (route.kind, route.to.len()) {
                (_, 0) => return Err(format!("route {} leads nowhere: give it an address", route.name)),
                (RouteKind::Primary, 2..) => {
                    return Err(format!(
                        "route {} has several primaries: give it one address",
                        route.name
                    ));
                }
                (_, count @ 2..) if form.is_variables() => {
                    return Err(format!(
                        "route {} leads to {count} addresses, and a variable takes one: leave it out, or use form File",
                        route.name
                    ));
                }
                _ => {}
            }
            if route.kind != RouteKind::Static && !route.drain.is_zero() {
                return Err(format!(
                    "route {} is not static, and has no sessions to drain",
                    route.name
                ));
            }
            let standbys = match route.kind {
                RouteKind::Replicas => &route.to[..route.to.len() - 1],
                _ => &[],
            };
            let is_standby = |address: &&Address| standbys.contains(address) && route.to.last() != Some(address);
            if let Some(address) = route.left_out.iter().find(|address| !is_standby(address)) {
                return Err(format!(
                    "route {} cannot leave out {address}: it is none of its standbys",
                    route.name
                ));
            }
        }
        Ok(Self {
            form,
            generation,
            state,
            routes,
        })
    }

    /// How much of HAProxy's configuration it is.
    #[must_use]
    pub const fn form(&self) -> Form {
        self.form
    }

    /// Its number; a later configuration has a higher one.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether clients are let through.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The routes, in their order in the file.
    #[must_use]
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }

    /// Names of the routes that a hold concerns now: none while it is open.
    #[must_use]
    pub fn held(&self) -> Vec<RouteName> {
        let held = |route: &&Route| self.state == State::Held && route.kind.is_held();
        self.routes
            .iter()
            .filter(held)
            .map(|route| route.name.clone())
            .collect()
    }

    /// Whether this one differs from another one in nothing but where servers are, so that a running HAProxy can be changed into it.
    #[must_use]
    pub fn has_form_of(&self, other: &Self) -> bool {
        let alike = |(mine, theirs): (&Route, &Route)| {
            mine.name == theirs.name
                && mine.listen == theirs.listen
                && mine.kind == theirs.kind
                && mine.to.len() == theirs.to.len()
        };
        self.form == other.form
            && self.routes.len() == other.routes.len()
            && self.routes.iter().zip(&other.routes).all(alike)
    }

    /// Whether this one differs from another one in nothing but the standbys that are left out.
    #[must_use]
    pub fn leads_as(&self, other: &Self) -> bool {
        let alike = |(mine, theirs): (&Route, &Route)| mine.to == theirs.to && mine.drain == theirs.drain;
        self.state == other.state && self.has_form_of(other) && self.routes.iter().zip(&other.routes).all(alike)
    }

    /// The file, for HAProxy 2.4 and later.
    ///
    /// It listens on IPv4 and IPv6. Where the kernel has no IPv6, set `MITOSIS_BIND=0.0.0.0` in the environment of HAProxy's container, and
    /// `MITOSIS_SOCKET` where the agent is given another `--admin-socket`. A name that does not resolve leaves its server without an address
    /// instead of refusing the whole file: one wrong static route must not stop a switchover.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!(
            "\
{MARK}
{form}
global
    # {state}
    setenv MITOSIS_GENERATION {generation}
",
            form = self.form.mark(),
            state = self.state.as_str(),
            generation = self.generation,
        );
        if let Some(socket) = self.form.admin_socket() {
            writeln!(
                text,
                "    stats socket {socket} mode 660 level admin expose-fd listeners"
            )
            .expect(INFALLIBLE);
        }
        match self.form {
            Form::Whole => {
                let drains = self.routes.iter().map(|route| route.drain);
                let longest = drains.max().unwrap_or_default().max(LAST_SESSIONS).as_millis();
                write!(
                    text,
                    "    # Sessions of a former configuration end with it.\n    hard-stop-after {longest}ms\n    maxconn {MAXCONN}\n{DEFAULTS}"
                )
                .expect(INFALLIBLE);
            }
            // Limits would be those of the user's own proxies as well.
            Form::Included | Form::Mounted => text.push_str(DEFAULTS),
            Form::Variables | Form::MountedVariables => {}
        }
        for route in &self.routes {
            if self.form.is_variables() {
                self.render_variable(route, &mut text);
            } else {
                self.render_route(route, &mut text);
            }
        }
        if self.form.admin_socket().is_none() {
            self.render_report(&mut text);
        }
        text
    }

    /// What an agent would report, told by the running HAProxy itself: it has no other answer than that of the configuration it runs.
    fn render_report(&self, text: &mut String) {
        // HAProxy refuses defaults that some proxies name and others have by their place.
        let from = if self.form.is_variables() { "" } else { " from mitosis" };
        let report = format!(
            r#"{{"state":"running","wanted":{0},"generation":{0}}}"#,
            self.generation
        );
        write!(
            text,
            "
frontend mitosis_report{from}
    mode http
    bind \"${{MITOSIS_BIND-::}}\":{REPORT_PORT} v4v6
    timeout client 5s
    timeout http-request 5s
    http-request return status 200 content-type application/json string '{report}' if {{ path /report }}
    http-request return status 404
"
        )
        .expect(INFALLIBLE);
    }

    fn render_variable(&self, route: &Route, text: &mut String) {
        let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect(INFALLIBLE);
        line(format_args!("    # route {} {}", route.name, route.listen));
        line(format_args!("    {}", route.kind.mark()));
        if route.kind == RouteKind::Static {
            line(format_args!("    # drained within {}ms", route.drain.as_millis()));
        }
        let held = self.state == State::Held && route.kind.is_held();
        let hidden = if held { "# " } else { "" };
        for address in &route.to {
            line(format_args!("    {hidden}setenv {} {address}", route.name.variable()));
        }
        if held {
            // Should HAProxy be started anew while held, its clients never reach a database.
            line(format_args!("    setenv {} 127.0.0.1:9", route.name.variable()));
        }
    }

    fn render_route(&self, route: &Route, text: &mut String) {
        let mut line = |line: std::fmt::Arguments<'_>| writeln!(text, "{line}").expect(INFALLIBLE);
        line(format_args!("\nfrontend {} from mitosis", route.name.frontend()));
        // The backlog is where clients wait while the route is held.
        line(format_args!(
            "    bind \"${{MITOSIS_BIND-::}}\":{} v4v6 backlog 4096",
            route.listen
        ));
        line(format_args!("    default_backend {}", route.name.backend()));
        line(format_args!("\nbackend {} from mitosis", route.name.backend()));
        line(format_args!("    {}", route.kind.mark()));
        if route.kind == RouteKind::Static {
            line(format_args!("    # drained within {}ms", route.drain.as_millis()));
        }
        let held = self.state == State::Held && route.kind.is_held();
        if held {
            // Should HAProxy be started anew while held, its clients wait here and never reach a database.
            line(format_args!(
                "    timeout connect 250ms\n    retries 240\n    option redispatch 1"
            ));
            line(format_args!("    server none 127.0.0.1:9"));
        } else {
            if route.kind.is_held() {
                // The session of a client that left while its statement runs: PostgreSQL would keep it to the statement's end, no command ends
                // it, and a hold would wait for it.
                line(format_args!("    timeout server-fin 1s"));
            }
            let check = match route.kind {
                RouteKind::Primary => "    retries 5\n    option redispatch 1",
                // With nowhere else to go, trying the only address is better than refusing the client.
                RouteKind::Pooler | RouteKind::Static if route.to.len() == 1 => "    retries 5",
                RouteKind::Replicas | RouteKind::Pooler => {
                    "    balance roundrobin\n    option redispatch 1\n    \
                     default-server check inter 1s fall 2 rise 1 on-marked-down shutdown-sessions"
                }
                RouteKind::Static => {
                    "    balance roundrobin\n    option redispatch 1\n    default-server check inter 1s fall 2 rise 1"
                }
            };
            line(format_args!("{check}"));
        }
        let hidden = if held { "# " } else { "" };
        for (index, address) in route.to.iter().enumerate() {
            let number = index + 1;
            let is_last_resort = route.kind == RouteKind::Replicas && number == route.to.len() && number > 1;
            let backup = if is_last_resort { " backup" } else { "" };
            let disabled = if route.left_out.contains(address) {
                " disabled"
            } else {
                ""
            };
            line(format_args!("    {hidden}server s{number} {address}{backup}{disabled}"));
        }
    }
}
