//! Networks of their own for tests: Linux network namespaces with a router between them, whose lines can be
//! cut, throttled and made to forget.
//!
//! ```text
//!  site "hub"                 router                 site "north"
//!  10.71.0.2 ─────veth───── 10.71.0.1 │ 10.71.1.1 ─────veth───── 10.71.1.2
//! ```
//!
//! A site is a namespace with a runtime whose threads live in it: what runs there ([`Site::run`]) has its sockets
//! there, and a process that is started there ([`Peer`]) stays there. Nothing of it can be seen from outside, so
//! sites may have equal addresses of their own ([`Site::add_network`]), and tests run beside each other.
//!
//! Who may not make namespaces is told so loudly ([`Net::new`]). With the last handle everything goes, also when a
//! test fails; what a killed test process left behind goes with the next one's first network.
//!
//! [`Peer`]: crate::peers::Peer

mod netns;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail, ensure};

pub use netns::Site;
use netns::{Namespace, ip, reap};

/// How many sites a network may have.
const SITES_MAX: u8 = 200;

/// A router and the sites around it. Gone when dropped with all its sites.
#[derive(Debug)]
pub struct Net {
    prefix: String,
    router: Site,
    sites: u8,
}

/// How lines of a site are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// What is sent vanishes on the way: nobody is told anything.
    Silent,
    /// The cable is pulled at the router: the site sees its link go down.
    Unplugged,
}

impl Net {
    /// A network with a router and no sites yet; `None` (said loudly) where namespaces may not be made.
    ///
    /// # Errors
    /// A namespace can be made, and something else went wrong.
    ///
    /// # Panics
    /// Namespaces may not be made and `REQUIRE_NAMESPACES=1`.
    pub fn new() -> Result<Option<Net>> {
        static NETS: AtomicU32 = AtomicU32::new(0);
        let prefix = format!("mgt{}x{}", std::process::id(), NETS.fetch_add(1, Ordering::Relaxed));
        if let Err(error) = reap().and_then(|()| Namespace::probe(&format!("{prefix}p"))) {
            let required = std::env::var_os("REQUIRE_NAMESPACES").is_some_and(|value| value == "1");
            assert!(!required, "REQUIRE_NAMESPACES=1 and network namespaces cannot be made: {error:#}");
            eprintln!("SKIPPED: network namespaces cannot be made here: {error:#}");
            return Ok(None);
        }
        let router = Site::new(&format!("{prefix}r"), Ipv4Addr::LOCALHOST.into())?;
        router.write("/proc/sys/net/ipv4/ip_forward", "1")?;
        Ok(Some(Net { prefix, router, sites: 0 }))
    }

    /// The router: what runs there stands between all sites, as a middlebox does.
    pub fn router(&self) -> &Site {
        &self.router
    }

    /// A further site, linked to the router.
    ///
    /// # Errors
    /// There are too many, or the system refuses.
    pub fn site(&mut self) -> Result<Site> {
        ensure!(self.sites < SITES_MAX, "a network has {SITES_MAX} sites at most");
        let number = self.sites;
        self.sites += 1;
        let addr: IpAddr = Ipv4Addr::new(10, 71, number, 2).into();
        let site = Site::new(&format!("{}s{number}", self.prefix), addr)?;
        let (router, inside) = (self.router.name(), site.name());
        let port = port_of(number);
        ip(&["-n", inside, "link", "add", "up0", "type", "veth", "peer", "name", &port, "netns", router])?;
        ip(&["-n", router, "addr", "add", &format!("{}/30", gateway(number)), "dev", &port])?;
        ip(&["-n", router, "link", "set", &port, "up"])?;
        ip(&["-n", inside, "addr", "add", &format!("{addr}/30"), "dev", "up0"])?;
        self.route(&site)?;
        Ok(site)
    }

    /// The router's address as `site` sees it.
    pub fn router_at(&self, site: &Site) -> Result<IpAddr> {
        Ok(gateway(number(site)?).into())
    }

    /// Cuts `site` off.
    ///
    /// # Errors
    /// The system refuses.
    pub fn cut(&self, site: &Site, how: Cut) -> Result<()> {
        let router = self.router.name();
        match how {
            Cut::Silent => {
                let addr = site.addr().to_string();
                for side in ["from", "to"] {
                    ip(&["-n", router, "rule", "add", "pref", "10", side, &addr, "blackhole"])?;
                }
                Ok(())
            }
            Cut::Unplugged => ip(&["-n", router, "link", "set", &port_of(number(site)?), "down"]),
        }
    }

    /// Ends what [`Net::cut`] did.
    ///
    /// # Errors
    /// The system refuses, or nothing was cut.
    pub fn mend(&self, site: &Site, how: Cut) -> Result<()> {
        let router = self.router.name();
        match how {
            Cut::Silent => {
                let addr = site.addr().to_string();
                for side in ["from", "to"] {
                    ip(&["-n", router, "rule", "del", "pref", "10", side, &addr, "blackhole"])?;
                }
                Ok(())
            }
            Cut::Unplugged => {
                ip(&["-n", router, "link", "set", &port_of(number(site)?), "up"])?;
                // Routes went with the link.
                self.route(site)
            }
        }
    }

    /// Forgets the connections `site` has now, as a firewall forgets what it has translated: their packets
    /// vanish, both ways and for good, and new connections work. Gives how many there were.
    ///
    /// # Errors
    /// The system refuses.
    pub fn forget_connections(&self, site: &Site) -> Result<usize> {
        self.forget_connections_but(site, &[])
    }

    /// As [`Net::forget_connections`], but for those from these ports of the site.
    ///
    /// # Errors
    /// The system refuses.
    pub fn forget_connections_but(&self, site: &Site, kept: &[u16]) -> Result<usize> {
        let mut ports = site.connected_ports()?;
        ports.retain(|port| !kept.contains(port));
        let router = self.router.name();
        for port in &ports {
            let port = port.to_string();
            for side in ["sport", "dport"] {
                ip(&["-n", router, "rule", "add", "pref", "20", "ipproto", "tcp", side, &port, "blackhole"])?;
            }
        }
        Ok(ports.len())
    }

    /// Lets no more than `kilobits` a second pass to and from `site`.
    ///
    /// # Errors
    /// The system refuses: the kernel may lack `tbf`.
    pub fn throttle(&self, site: &Site, kilobits: u32) -> Result<()> {
        let rate = format!("{kilobits}kbit");
        let limit = ["root", "tbf", "rate", &rate, "burst", "8kb", "latency", "400ms"];
        for (namespace, link) in
            [(self.router.name(), port_of(number(site)?)), (site.name(), "up0".to_owned())]
        {
            let words = ["-n", namespace, "qdisc", "replace", "dev", &link];
            netns::tool("tc", &[&words[..], &limit[..]].concat())?;
        }
        Ok(())
    }

    fn route(&self, site: &Site) -> Result<()> {
        let via = gateway(number(site)?).to_string();
        ip(&["-n", site.name(), "link", "set", "up0", "up"])?;
        ip(&["-n", site.name(), "route", "replace", "default", "via", &via])
    }
}

fn gateway(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 71, number, 1)
}

/// The router's end of a site's link.
fn port_of(number: u8) -> String {
    format!("site{number}")
}

fn number(site: &Site) -> Result<u8> {
    match site.addr() {
        IpAddr::V4(addr) if addr.octets()[0] == 10 => Ok(addr.octets()[2]),
        other => bail!("{other} is no site's address"),
    }
}
