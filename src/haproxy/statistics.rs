//! What a running HAProxy says about its sessions and servers.

use std::{collections::BTreeMap, net::SocketAddr};

use super::Version;

/// The load of a running HAProxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Sessions that a frontend accepts at most, by its name; 0 while it is held.
    pub limits: BTreeMap<String, u64>,
    /// Sessions now, by name of the backend.
    pub backends: BTreeMap<String, u64>,
    /// Those of them that have a server, by names of the backend and the server. The others wait for one, or for a client to take the last of
    /// its answer.
    pub with_server: BTreeMap<(String, String), u64>,
}

impl Load {
    /// Reads the answer to `show stat`: lines of comma-separated values, the first of which names the columns.
    pub(super) fn parse(answer: &str) -> Option<Self> {
        let mut lines = answer.lines();
        let header: Vec<&str> = lines.next()?.strip_prefix("# ")?.split(',').collect();
        let column = |name: &str| header.iter().position(|title| *title == name);
        let (name, kind) = (column("pxname")?, column("svname")?);
        let (sessions, limit) = (column("scur")?, column("slim")?);
        let mut load = Self::default();
        for line in lines.filter(|line| !line.is_empty()) {
            let values: Vec<&str> = line.split(',').collect();
            let number = |index: usize| values.get(index)?.parse::<u64>().ok();
            let name = (*values.get(name)?).to_owned();
            match *values.get(kind)? {
                "FRONTEND" => {
                    load.limits.insert(name, number(limit)?);
                }
                "BACKEND" => {
                    load.backends.insert(name, number(sessions)?);
                }
                server => {
                    load.with_server.insert((name, server.to_owned()), number(sessions)?);
                }
            }
        }
        Some(load)
    }
}

/// What a process of HAProxy runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its version.
    pub version: Version,
    /// The generation that it answers with: the one set at run time, else that of the file it was started with; none when the
    /// configuration is not of Mitosis.
    pub generation: Option<u64>,
    /// Its sessions.
    pub load: Load,
}

impl Running {
    /// Reads the answers to `show info`, `show stat`, `show env MITOSIS_GENERATION` and `get var proc.mitosis_generation`.
    pub(super) fn parse(answer: &str) -> Option<Self> {
        let after = |start: &str| answer.lines().find_map(|line| line.strip_prefix(start));
        let set = after("proc.mitosis_generation:").and_then(|rest| {
            let (_, number) = rest.split_once("value=<")?;
            number.split_once('>')?.0.parse().ok()
        });
        let started_with = || after("MITOSIS_GENERATION=")?.trim().parse().ok();
        let table = &answer[answer.find("# pxname")?..];
        let table = table.find("\n\n").map_or(table, |end| &table[..end]);
        Some(Self {
            version: after("Version: ")?.parse().ok()?,
            generation: set.or_else(started_with),
            load: Load::parse(table)?,
        })
    }
}

/// Bits of `srv_admin_state` for maintenance: by command (or by `disabled` at the start), as of a server that it tracks, and for want of an
/// address. That the configuration says `disabled` is a bit of its own, which stays when a command ends it.
const MAINTENANCE: u32 = 0x01 | 0x02 | 0x20;

/// A server of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Name of the backend.
    pub backend: String,
    /// Its own name.
    pub name: String,
    /// Its IP address; none when its name does not resolve.
    pub ip: Option<String>,
    /// Its port.
    pub port: Option<u16>,
    /// Whether it is in service, healthy or not, and not in maintenance.
    pub serves: bool,
}

impl Server {
    /// Reads the answer to `show servers state`: a version, a line that names the columns, a line per server. Before it may stand the answers
    /// to other commands.
    pub(super) fn parse(answer: &str) -> Option<Vec<Self>> {
        let mut lines = answer.lines();
        lines.find(|version| *version == "1")?;
        let header: Vec<&str> = lines.next()?.strip_prefix("# ")?.split(' ').collect();
        let column = |name: &str| header.iter().position(|title| *title == name);
        let (backend, name) = (column("be_name")?, column("srv_name")?);
        let (ip, port) = (column("srv_addr")?, column("srv_port")?);
        let service = column("srv_admin_state")?;
        lines
            .filter(|line| !line.is_empty())
            .map(|line| {
                let values: Vec<&str> = line.split(' ').collect();
                Some(Self {
                    backend: (*values.get(backend)?).to_owned(),
                    name: (*values.get(name)?).to_owned(),
                    ip: values.get(ip).filter(|ip| **ip != "-").map(|ip| (*ip).to_owned()),
                    port: values.get(port).and_then(|port| port.parse().ok()),
                    serves: values.get(service)?.parse::<u32>().ok()? & MAINTENANCE == 0,
                })
            })
            .collect()
    }
}

/// A session that is connected to a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// HAProxy's name for it.
    pub id: String,
    /// Its backend.
    pub backend: String,
    /// Where it is connected to.
    pub to: SocketAddr,
}

impl Session {
    /// Those of an answer to `show sess all`.
    pub(super) fn parse(answer: &str) -> Vec<Self> {
        let (mut id, mut backend) = (None, None);
        let mut sessions = Vec::new();
        for line in answer.lines() {
            let after = |word: &str| line.split_once(word)?.1.split(' ').next();
            if line.starts_with("0x") {
                (id, backend) = (line.split(':').next(), None);
            } else if line.starts_with("  backend=") {
                backend = after("backend=");
            } else if line.starts_with("  server=")
                && let (Some(id), Some(backend)) = (id, backend)
                && let Some(to) = after("addr=").and_then(parse_address)
            {
                sessions.push(Self {
                    id: id.to_owned(),
                    backend: backend.to_owned(),
                    to,
                });
            }
        }
        sessions
    }
}

/// An address as HAProxy writes it: one of IPv6 without brackets.
fn parse_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.rsplit_once(':')?;
    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_found_by_their_names() {
        let answer = "# pxname,svname,qcur,qmax,scur,smax,slim,stot
fe_write,FRONTEND,,,3,4,0,9
be_write,s1,0,0,1,2,,9
be_write,s2,0,0,1,2,,9
be_write,BACKEND,0,0,3,3,500,9

";
        let load = Load::parse(answer).unwrap();
        assert_eq!(load.limits["fe_write"], 0);
        assert_eq!(load.backends["be_write"], 3);
        let with_server = |server: &str| load.with_server[&("be_write".to_owned(), server.to_owned())];
        assert_eq!((with_server("s1"), with_server("s2")), (1, 1));
        assert_eq!(Load::parse("Permission denied"), None);
    }

    #[test]
    fn the_generation_set_at_run_time_counts_before_that_of_the_file() {
        let answer = "Name: HAProxy
Version: 3.0.11-1+deb13u5

# pxname,svname,scur,slim
fe_write,FRONTEND,0,5000

MITOSIS_GENERATION=13

";
        let running = |last: &str| Running::parse(&format!("{answer}{last}\n\n")).unwrap();
        assert_eq!(running("Variable not found.").generation, Some(13));
        let set = running("proc.mitosis_generation: type=sint value=<14>");
        assert_eq!((set.generation, set.version.to_string().as_str()), (Some(14), "3.0.11"));
        assert_eq!(set.load.limits["fe_write"], 5000);
        assert_eq!(Running::parse("Permission denied"), None);
    }

    #[test]
    fn a_server_without_an_address_is_told_apart() {
        let answer = "1
# be_id be_name srv_id srv_name srv_addr srv_port srv_op_state srv_admin_state
3 be_write 1 s1 127.0.0.1 5432 2 4
5 be_web 1 s1 - 0 0 32
";
        let servers = Server::parse(answer).unwrap();
        assert_eq!(
            (servers[0].ip.as_deref(), servers[0].port),
            (Some("127.0.0.1"), Some(5432))
        );
        assert_eq!((servers[1].backend.as_str(), &servers[1].ip), ("be_web", &None));
        assert!(servers[0].serves && !servers[1].serves);
        assert_eq!(Server::parse("Can't find backend."), None);
    }

    #[test]
    fn sessions_that_are_connected_are_read_with_where_they_go() {
        // HAProxy 2.6.12, shortened; the last one is that of the question itself.
        let answer = "\
0x55e72b4d48f0: [27/Nov/2026:20:03:28.836218] id=0 proto=tcpv4 source=127.0.0.1:33502
  flags=0x4a, conn_retries=0, conn_exp=<NEVER> conn_et=0x000 srv_conn=0x55e72b413c30, pend_pos=(nil) waiting=0 epoch=0
  frontend=fe_web (id=2 mode=tcp), listener=? (id=1) addr=127.0.0.1:8407
  backend=be_web (id=3 mode=tcp) addr=127.0.0.1:42036
  server=s1 (id=1) addr=127.0.0.1:8408
  task=0x55e72b5efba0 (state=0x00 nice=0 calls=2 rate=2 exp=0s tmask=0x1 age=1s)
0x55e72b5f0490: [27/Nov/2026:20:03:28.836563] id=1 proto=tcpv6 source=::1:51286
  frontend=fe_web (id=2 mode=tcp), listener=? (id=2) addr=::1:8407
  backend=be_web (id=3 mode=tcp) addr=::1:42050
  server=s2 (id=1) addr=fd00::7:80
0x55e72b5f10c0: [27/Nov/2026:20:03:29.137227] id=2 proto=unix_stream source=unix:1
  frontend=GLOBAL (id=0 mode=tcp), listener=? (id=1) addr=unix:1
  backend=<NONE> (id=-1 mode=-)
  server=<NONE> (id=-1)
";
        let session = |id: &str, to: &str| Session {
            id: id.to_owned(),
            backend: "be_web".to_owned(),
            to: to.parse().unwrap(),
        };
        let expected = [
            session("0x55e72b4d48f0", "127.0.0.1:8408"),
            session("0x55e72b5f0490", "[fd00::7]:80"),
        ];
        assert_eq!(Session::parse(answer), expected);
    }
}
