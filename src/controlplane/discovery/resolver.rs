//! One lookup: the hosts file, the search list, the servers; the only file that knows hickory.
//!
//! What it makes of the answers is ours, so that a server that fails, or one family of addresses that does, is told from
//! a name that is not there: the one keeps what is known, the other ends it.

use std::cell::RefCell;
use std::fs::{self, File};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, Record as WireRecord, RecordType};
use hickory_resolver::{Hosts, TokioResolver};
use tokio::time;

use super::state::{Data, Outcome, ServiceRecord};
use crate::base::stagger;
use crate::controlplane::reload::Question;

/// How long one server may be silent before the next is asked beside it.
const SERVER_PATIENCE: Duration = Duration::from_secs(1);

/// How long one family of addresses waits for the other once it has an answer; some servers drop what they do not know.
const FAMILY_PATIENCE: Duration = Duration::from_secs(1);

/// How long one server may take; it is asked again meanwhile if a packet was lost.
const SERVER_TIMEOUT: Duration = Duration::from_secs(4);

/// How long the hosts file is believed.
const HOSTS_TTL: Duration = Duration::from_secs(30);

/// Addresses of one family that are taken of a host.
const ADDRESSES_LIMIT: usize = 1024;

/// Records that are taken of a service, those of low priority first.
const RECORDS_LIMIT: usize = 256;

/// Looks names up as the machine is set up, or at servers that the config names.
pub(super) struct System {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    current: RefCell<Option<(Stamp, Rc<Resolver>)>>,
}

/// What a resolver was made of: the servers of the config, and the age and size of both files.
#[derive(PartialEq)]
struct Stamp {
    servers: Vec<SocketAddr>,
    files: [Option<(SystemTime, u64)>; 2],
}

/// Whom to ask, and how.
struct Resolver {
    hosts: Hosts,
    servers: Vec<TokioResolver>,
    search: Vec<Name>,
    /// The dots that make a name whole before the search list is used.
    ndots: usize,
}

/// What servers say of one name and type: its records and how long they hold, or that there are none.
type Reply = Result<Option<(Vec<WireRecord>, Duration)>, String>;

impl System {
    /// The system's files.
    pub(super) fn new() -> Self {
        Self::at("/etc/hosts".into(), "/etc/resolv.conf".into())
    }

    fn at(hosts: PathBuf, resolv_conf: PathBuf) -> Self {
        Self {
            hosts,
            resolv_conf,
            current: RefCell::default(),
        }
    }

    /// Looks something up at `servers`, or at those of the system if there are none.
    pub(super) async fn look_up(&self, question: &Question, servers: &[SocketAddr]) -> Outcome {
        let resolver = self.resolver(servers);
        match question {
            Question::Host(name) => resolver.host(name).await,
            Question::Service(name) => resolver.service(name).await,
        }
    }

    /// The one from before, unless a file has changed or the servers are others.
    fn resolver(&self, servers: &[SocketAddr]) -> Rc<Resolver> {
        let stamp = Stamp {
            servers: servers.to_vec(),
            files: [&self.hosts, &self.resolv_conf].map(|file| {
                let meta = fs::metadata(file).ok()?;
                Some((meta.modified().ok()?, meta.len()))
            }),
        };
        let mut current = self.current.borrow_mut();
        if let Some((known, resolver)) = &*current
            && *known == stamp
        {
            return Rc::clone(resolver);
        }
        let resolver = Rc::new(self.read(servers));
        *current = Some((stamp, Rc::clone(&resolver)));
        resolver
    }

    fn read(&self, servers: &[SocketAddr]) -> Resolver {
        let mut hosts = Hosts::default();
        // Without the file, or with what cannot be read of it, no name is in it.
        let _ = File::open(&self.hosts).and_then(|file| hosts.read_hosts_conf(file));
        if !servers.is_empty() {
            let options = ResolverOpts::default();
            let servers = servers.iter().filter_map(|&server| asks(server, &options));
            return Resolver {
                hosts,
                servers: servers.collect(),
                search: Vec::new(),
                ndots: 0,
            };
        }
        let text = fs::read(&self.resolv_conf).unwrap_or_default();
        // As the C library does it: what is wrong in the file is passed over.
        let (found, _) = resolv_conf::Config::parse_with_errors(&text);
        let mut options = ResolverOpts::default();
        options.edns0 = found.edns0;
        let servers = found.get_nameservers_or_local();
        let servers = servers
            .iter()
            .filter_map(|server| asks(SocketAddr::new(IpAddr::from(server), 53), &options));
        let search = found.get_last_search_or_domain().filter_map(|domain| {
            let mut domain = Name::from_ascii(domain).ok()?;
            domain.set_fqdn(true);
            Some(domain)
        });
        Resolver {
            hosts,
            servers: servers.collect(),
            search: search.collect(),
            ndots: found.ndots.try_into().unwrap_or(usize::MAX),
        }
    }
}

/// One server. Each is asked by a resolver of its own: one of many would stop at the first that refuses.
fn asks(server: SocketAddr, options: &ResolverOpts) -> Option<TokioResolver> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.into());
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let set = builder.options_mut();
    *set = options.clone();
    set.timeout = SERVER_TIMEOUT;
    set.attempts = 0;
    set.num_concurrent_reqs = 1;
    // When to ask again is decided above.
    set.cache_size = 0;
    set.use_hosts_file = ResolveHosts::Never;
    builder.build().ok()
}

impl Resolver {
    async fn host(&self, written: &str) -> Outcome {
        let Ok(name) = Name::from_ascii(written) else {
            return Outcome::Failed(format!("`{written}` is no name"));
        };
        if let Some(data) = self.in_hosts(&name) {
            return Outcome::Found(data, HOSTS_TTL);
        }
        for name in self.candidates(&name) {
            let (v4, v6) = self.both(&name).await;
            let ttl = [&v4, &v6].into_iter().flatten().flatten();
            let ttl = ttl.map(|(_, ttl)| *ttl).min();
            let data = |reply: &Reply| match reply {
                Ok(Some((records, _))) => Some(addresses(records)),
                Ok(None) => Some(Vec::new()),
                Err(_) => None,
            };
            let found = [data(&v4), data(&v6)];
            if let (Some(ttl), true) = (ttl, found.iter().flatten().any(|all| !all.is_empty())) {
                let [v4, v6] = found;
                return Outcome::Found(Data::Addresses { v4, v6 }, ttl);
            }
            if let Err(error) = v4.and(v6) {
                return Outcome::Failed(error);
            }
        }
        Outcome::NotThere
    }

    async fn service(&self, written: &str) -> Outcome {
        let Ok(name) = Name::from_ascii(written) else {
            return Outcome::Failed(format!("`{written}` is no name"));
        };
        for name in self.candidates(&name) {
            match self.ask(&name, RecordType::SRV).await {
                Ok(Some((records, ttl))) => {
                    let records = services(&records);
                    if !records.is_empty() {
                        return Outcome::Found(Data::Records(records), ttl);
                    }
                }
                Ok(None) => {}
                Err(error) => return Outcome::Failed(error),
            }
        }
        Outcome::NotThere
    }

    /// The addresses that the hosts file has for a name, and no others then.
    fn in_hosts(&self, name: &Name) -> Option<Data> {
        let of = |kind| {
            let query = Query::query(name.clone(), kind);
            self.hosts.lookup_static_host(&query)
        };
        let (v4, v6) = (of(RecordType::A), of(RecordType::AAAA));
        if v4.is_none() && v6.is_none() {
            return None;
        }
        let [v4, v6] = [v4, v6]
            .map(|found| Some(found.map_or_else(Vec::new, |found| addresses(found.answers()))));
        Some(Data::Addresses { v4, v6 })
    }

    /// The whole names that a written one may stand for, in order.
    fn candidates(&self, written: &Name) -> Vec<Name> {
        let mut whole = written.clone();
        whole.set_fqdn(true);
        if written.is_fqdn() {
            return vec![whole];
        }
        let dots = usize::from(written.num_labels()).saturating_sub(1);
        let search = self.search.iter();
        let mut names: Vec<_> = search
            .filter_map(|domain| written.clone().append_domain(domain).ok())
            .collect();
        match dots >= self.ndots {
            true => names.insert(0, whole),
            false => names.push(whole),
        }
        names
    }

    /// Both families of a host's addresses, asked at the same time.
    async fn both(&self, name: &Name) -> (Reply, Reply) {
        let mut v4 = pin!(self.ask(name, RecordType::A));
        let mut v6 = pin!(self.ask(name, RecordType::AAAA));
        let late = || Err("no answer for one family of addresses".to_owned());
        tokio::select! {
            first = &mut v4 => {
                let other = match first {
                    Ok(Some(_)) => time::timeout(FAMILY_PATIENCE, v6).await,
                    Ok(None) | Err(_) => Ok(v6.await),
                };
                (first, other.unwrap_or_else(|_| late()))
            }
            first = &mut v6 => {
                let other = match first {
                    Ok(Some(_)) => time::timeout(FAMILY_PATIENCE, v4).await,
                    Ok(None) | Err(_) => Ok(v4.await),
                };
                (other.unwrap_or_else(|_| late()), first)
            }
        }
    }

    /// Asks one server after the other, until one knows.
    async fn ask(&self, name: &Name, kind: RecordType) -> Reply {
        let attempts = self.servers.iter().map(async |server| {
            let found = server.lookup(name.clone(), kind).await;
            match found {
                Ok(found) => {
                    let records = found.answers();
                    let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(0);
                    let ttl = Duration::from_secs(ttl.into());
                    Ok(Some((records.to_vec(), ttl)))
                }
                Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        });
        let found = stagger::first(attempts, SERVER_PATIENCE).await;
        found.unwrap_or_else(|| Err("there is no DNS server to ask".to_owned()))
    }
}

/// The addresses and services of a server's answer, for fuzzers; `None` if it is none.
#[cfg(any(test, fuzzing))]
pub(super) fn digest(bytes: &[u8]) -> Option<(Vec<IpAddr>, Vec<ServiceRecord>)> {
    let message = hickory_resolver::proto::op::Message::from_vec(bytes).ok()?;
    Some((addresses(&message.answers), services(&message.answers)))
}

fn addresses(records: &[WireRecord]) -> Vec<IpAddr> {
    let records = records.iter();
    let mut found: Vec<_> = records.filter_map(|record| record.data.ip_addr()).collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(ADDRESSES_LIMIT);
    found
}

fn services(records: &[WireRecord]) -> Vec<ServiceRecord> {
    let records = records.iter().filter_map(|record| match &record.data {
        // RFC 2782: the root as host says that there is no such service.
        RData::SRV(srv) if srv.port != 0 && !srv.target.is_root() => {
            let mut host = srv.target.to_lowercase();
            host.set_fqdn(true);
            Some(ServiceRecord {
                priority: srv.priority,
                host: host.to_ascii(),
                port: srv.port,
                weight: srv.weight,
            })
        }
        _ => None,
    });
    let mut found: Vec<_> = records.collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(RECORDS_LIMIT);
    found
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    /// A system with these files.
    fn system(hosts: &str, resolv_conf: &str) -> (tempfile::TempDir, System) {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let system = System::at(file("hosts", hosts), file("resolv.conf", resolv_conf));
        (folder, system)
    }

    #[test]
    fn names_are_made_whole_as_the_file_says() {
        let check = |resolv_conf: &str, name: &str, candidates: &str| {
            let (_folder, system) = system("", resolv_conf);
            let names = system
                .resolver(&[])
                .candidates(&Name::from_ascii(name).unwrap());
            let names: Vec<_> = names.iter().map(Name::to_ascii).collect();
            assert_eq!(names.join(" "), candidates, "{resolv_conf:?} {name}");
        };
        let search = "nameserver 127.0.0.1\nsearch a.test b.test\n";
        check(search, "app", "app.a.test. app.b.test. app.");
        check(
            search,
            "app.web",
            "app.web. app.web.a.test. app.web.b.test.",
        );
        check(search, "app.", "app.");
        let cluster = format!("{search}options ndots:5\n");
        check(
            &cluster,
            "app.web",
            "app.web.a.test. app.web.b.test. app.web.",
        );
        check("domain c.test\n", "app", "app.c.test. app.");
        check("nonsense\n", "app", "app.");
    }

    #[test]
    fn servers_of_the_config_take_the_place_of_the_files_and_of_its_search_list() {
        let (_folder, system) = system("", "nameserver 127.0.0.1\nsearch a.test\n");
        let resolver = system.resolver(&["127.0.0.2:5353".parse().unwrap()]);
        assert_eq!((resolver.servers.len(), resolver.search.len()), (1, 0));
        let resolver = system.resolver(&[]);
        assert_eq!((resolver.servers.len(), resolver.search.len()), (1, 1));
    }

    #[test]
    fn the_hosts_file_is_believed_first_and_read_again_when_it_changes() {
        let hosts = "10.0.0.1 app # a comment\nfd00::1 app\n10.0.0.2 app other\n";
        let (folder, system) = system(hosts, "nameserver 127.0.0.1\n");
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let found = || {
            let question = Question::Host("app".to_owned());
            match runtime.block_on(system.look_up(&question, &[])) {
                Outcome::Found(Data::Addresses { v4, v6 }, ttl) => {
                    assert_eq!(ttl, HOSTS_TTL);
                    format!("{:?} {:?}", v4.unwrap(), v6.unwrap())
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(found(), "[10.0.0.1, 10.0.0.2] [fd00::1]");
        fs::write(folder.path().join("hosts"), "10.0.0.3 app\n").unwrap();
        assert_eq!(found(), "[10.0.0.3] []");
    }
}
