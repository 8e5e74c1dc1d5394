//! What the control plane counts of itself and sees of pools, in the text format of Prometheus (version 0.0.4).

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::sync::Arc;
use std::time::SystemTime;

use crate::base::clients::{Clients, Excess};
use crate::controlplane::reload::board::Figures;
use crate::controlplane::reload::outcome::{Ailing, Ails};
use crate::dataplane::upstream::health::Standing;
use crate::dataplane::upstream::mirror::Ending;
use crate::dataplane::upstream::pool::Pool;

/// The media type of the format.
pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a scrape gets: the figures of the config, the sites that are not in force as they are written, and what is live about
/// pools and counted with them.
pub(super) struct Scrape<'a> {
    pub(super) figures: &'a Figures,
    pub(super) pools: &'a [Arc<Pool>],
    pub(super) ailing: &'a [Ailing],
    pub(super) clients: &'a Clients,
}

/// A counter of copies.
struct Counted {
    name: &'static str,
    help: &'static str,
    /// What it counts, and the label that tells it from the others.
    endings: &'static [(Ending, &'static str)],
}

const COPIES: [Counted; 3] = [
    Counted {
        name: "lockgate_mirror_sent_total",
        help: "Copies of requests that a pool has answered.",
        endings: &[(Ending::Sent, "")],
    },
    Counted {
        name: "lockgate_mirror_failed_total",
        help: "Copies that were not answered, or not in time.",
        endings: &[(Ending::Failed, "")],
    },
    Counted {
        name: "lockgate_mirror_dropped_total",
        help: "Copies that were not sent, by the reason.",
        endings: &[
            (Ending::Busy, ",reason=\"busy\""),
            (Ending::Body, ",reason=\"body\""),
            (Ending::Incomplete, ",reason=\"incomplete\""),
        ],
    },
];

impl fmt::Display for Scrape<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures = self.figures;
        let name = "lockgate_config_version";
        family(out, name, "gauge", "The version of the config in force.")?;
        writeln!(out, "{name} {}", figures.version)?;
        let name = "lockgate_config_last_reload_success";
        let help = "Whether the last reload, or the start, put all that was written in force.";
        family(out, name, "gauge", help)?;
        writeln!(out, "{name} {}", u8::from(figures.is_good))?;
        if let Some(at) = figures.last_good {
            let name = "lockgate_config_last_reload_success_timestamp_seconds";
            family(out, name, "gauge", "When one last did, in Unix time.")?;
            let since = at.duration_since(SystemTime::UNIX_EPOCH);
            writeln!(out, "{name} {}", since.unwrap_or_default().as_secs_f64())?;
        }
        let name = "lockgate_config_last_reload_seconds";
        family(out, name, "gauge", "How long the last one took.")?;
        writeln!(out, "{name} {}", figures.took.as_secs_f64())?;
        let name = "lockgate_config_reloads_total";
        let help =
            "Attempts to put a config in force, by what caused them and what became of them.";
        family(out, name, "counter", help)?;
        for ((cause, outcome), count) in &figures.attempts {
            writeln!(
                out,
                "{name}{{cause=\"{cause}\",outcome=\"{outcome}\"}} {count}"
            )?;
        }
        let name = "lockgate_config_snapshots";
        let help = "Versions in memory: the one in force, and those that exchanges still hold.";
        family(out, name, "gauge", help)?;
        writeln!(out, "{name} {}", figures.snapshots)?;
        let name = "lockgate_site_frozen";
        let help = "A site that is wrong as it is written: its last good version is in force.";
        self.sites(out, name, help, Ails::Frozen)?;
        let name = "lockgate_site_left_out";
        let help = "A site that never was good: its requests get 503.";
        self.sites(out, name, help, Ails::LeftOut)?;
        self.pools(out)?;
        self.copies(out)?;
        self.clients(out)
    }
}

impl Scrape<'_> {
    /// What became of the copies for each pool; one that never had any is not told.
    fn copies(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mirrors = self.pools.iter().filter(|pool| {
            let copies = pool.live.copies();
            let mut endings = COPIES.iter().flat_map(|family| family.endings);
            copies.under_way() > 0 || endings.any(|(ending, _)| copies.total(*ending) > 0)
        });
        let mirrors: Vec<_> = mirrors.collect();
        for Counted {
            name,
            help,
            endings,
        } in COPIES
        {
            family(out, name, "counter", help)?;
            for pool in &mirrors {
                for (ending, reason) in endings {
                    let total = pool.live.copies().total(*ending);
                    let pool = Label(pool.name.as_str());
                    writeln!(out, "{name}{{pool=\"{pool}\"{reason}}} {total}")?;
                }
            }
        }
        let name = "lockgate_mirror_in_flight";
        family(out, name, "gauge", "Copies under way.")?;
        for pool in &mirrors {
            let under_way = pool.live.copies().under_way();
            let pool = Label(pool.name.as_str());
            writeln!(out, "{name}{{pool=\"{pool}\"}} {under_way}")?;
        }
        Ok(())
    }

    /// One gauge a site in this state, and none for those that are well.
    fn sites(
        &self,
        out: &mut fmt::Formatter<'_>,
        name: &str,
        help: &str,
        state: Ails,
    ) -> fmt::Result {
        family(out, name, "gauge", help)?;
        for ailing in self.ailing.iter().filter(|ailing| ailing.state == state) {
            let site = Label(ailing.site.as_str());
            writeln!(out, "{name}{{site=\"{site}\"}} 1")?;
        }
        Ok(())
    }

    /// What the limits of clients have refused.
    fn clients(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = "lockgate_client_refusals_total";
        let help = "Connections, handshakes and requests that a limit of `limits.client` refused.";
        family(out, name, "counter", help)?;
        for excess in Excess::ALL {
            let (limit, refused) = (excess.key(), self.clients.refused(excess));
            writeln!(out, "{name}{{limit=\"{limit}\"}} {refused}")?;
        }
        Ok(())
    }

    fn pools(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = "lockgate_endpoint_healthy";
        let help = "Whether the health of an endpoint lets it take traffic.";
        family(out, name, "gauge", help)?;
        for pool in self.pools {
            // One address may be there by two names.
            let mut endpoints = BTreeMap::new();
            for member in &pool.members {
                let is_healthy = endpoints.entry(&*member.endpoint.label).or_insert(false);
                *is_healthy |= member.endpoint.standing() == Standing::Healthy;
            }
            let pool = Label(pool.name.as_str());
            for (endpoint, is_healthy) in endpoints {
                let (endpoint, is_healthy) = (Label(endpoint), u8::from(is_healthy));
                writeln!(
                    out,
                    "{name}{{pool=\"{pool}\",endpoint=\"{endpoint}\"}} {is_healthy}"
                )?;
            }
        }
        let name = "lockgate_pool_ejections_total";
        let help = "Ejections of endpoints, by what they were for.";
        family(out, name, "counter", help)?;
        for pool in self.pools {
            for (cause, count) in pool.live.ejections().counts() {
                let pool = Label(pool.name.as_str());
                writeln!(out, "{name}{{pool=\"{pool}\",cause=\"{cause}\"}} {count}")?;
            }
        }
        let name = "lockgate_pool_queue_length";
        let help = "Requests that wait for an endpoint of the pool.";
        family(out, name, "gauge", help)?;
        for pool in self.pools {
            let (pool, waiting) = (Label(pool.name.as_str()), pool.waiting());
            writeln!(out, "{name}{{pool=\"{pool}\"}} {waiting}")?;
        }
        Ok(())
    }
}

/// The value of a label, as it is written between its quotes.
struct Label<'a>(&'a str);

impl fmt::Display for Label<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|letter| match letter {
            '\\' => out.write_str("\\\\"),
            '"' => out.write_str("\\\""),
            '\n' => out.write_str("\\n"),
            other => out.write_char(other),
        })
    }
}

fn family(out: &mut fmt::Formatter<'_>, name: &str, kind: &str, help: &str) -> fmt::Result {
    writeln!(out, "# HELP {name} {help}")?;
    writeln!(out, "# TYPE {name} {kind}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::controlplane::reload::outcome::Cause;

    #[test]
    fn figures_and_sites_are_told_in_the_format_of_prometheus() {
        let figures = Figures {
            version: 3,
            attempts: [
                ((Cause::Start, "changed"), 1),
                ((Cause::FilesChanged, "rejected"), 2),
            ]
            .into(),
            is_good: false,
            last_good: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1500)),
            took: Duration::from_millis(20),
            snapshots: 2,
        };
        let site = |site: &str, state| Ailing {
            site: site.into(),
            file: "sites/a.yaml".into(),
            state,
            errors: Vec::new(),
        };
        let ailing = [
            site("a\\\"b", Ails::Frozen),
            site("shop", Ails::LeftOut),
            site("blog", Ails::Frozen),
        ];
        let scrape = Scrape {
            figures: &figures,
            ailing: &ailing,
            pools: &[],
            clients: &Clients::default(),
        };
        let told = scrape.to_string();
        let (comments, samples): (Vec<_>, Vec<_>) =
            told.lines().partition(|line| line.starts_with('#'));
        let expected = [
            "lockgate_config_version 3",
            "lockgate_config_last_reload_success 0",
            "lockgate_config_last_reload_success_timestamp_seconds 1.5",
            "lockgate_config_last_reload_seconds 0.02",
            "lockgate_config_reloads_total{cause=\"start\",outcome=\"changed\"} 1",
            "lockgate_config_reloads_total{cause=\"files_changed\",outcome=\"rejected\"} 2",
            "lockgate_config_snapshots 2",
            "lockgate_site_frozen{site=\"a\\\\\\\"b\"} 1",
            "lockgate_site_frozen{site=\"blog\"} 1",
            "lockgate_site_left_out{site=\"shop\"} 1",
            "lockgate_client_refusals_total{limit=\"connections\"} 0",
            "lockgate_client_refusals_total{limit=\"handshakes\"} 0",
            "lockgate_client_refusals_total{limit=\"requests\"} 0",
            "lockgate_client_refusals_total{limit=\"concurrent_requests\"} 0",
        ];
        assert_eq!(samples, expected);
        assert_eq!(comments.len(), 2 * 16);
        assert!(told.ends_with('\n'));
    }
}
