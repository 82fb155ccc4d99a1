//! One network namespace, through the tools of iproute2, and threads that live in it.

use std::fs::File;
use std::future::Future;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Runtime;

/// Where iproute2 keeps its namespaces.
const NAMESPACES: &str = "/run/netns";
/// What all names of ours begin with; the number of the process follows, then `x`.
const PREFIX: &str = "mgt";

/// A place in a [`Net`](super::Net). Cheap to clone; gone with the last clone, and with it the processes in it.
#[derive(Debug, Clone)]
pub struct Site(Arc<Inside>);

#[derive(Debug)]
struct Inside {
    /// Dropped before the namespace: its threads live there.
    runtime: Option<Runtime>,
    namespace: Namespace,
    addr: IpAddr,
}

impl Drop for Inside {
    fn drop(&mut self) {
        // A test may let go of it on a thread that must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Site {
    pub(super) fn new(name: &str, addr: IpAddr) -> Result<Site> {
        let namespace = Namespace::new(name)?;
        let path = namespace.path();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(move || {
                // A thread outside would test something else.
                if let Err(error) = enter(&path) {
                    panic!("{error:#}");
                }
            })
            .build()?;
        Ok(Site(Arc::new(Inside { runtime: Some(runtime), namespace, addr })))
    }

    /// The namespace's name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.0.namespace.name
    }

    /// Its address on the network.
    pub fn addr(&self) -> IpAddr {
        self.0.addr
    }

    /// Runs `work` in the namespace: sockets that it opens and processes that it starts are there.
    ///
    /// # Errors
    /// What `work` says, or it panicked.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.runtime()?.spawn(work).await.context("something in a namespace panicked")?
    }

    /// Runs what `work` makes, a test as a whole, in the namespace, and waits for it.
    ///
    /// # Errors
    /// What `work` says, or it panicked.
    pub fn block_on<T: Send, F: Future<Output = Result<T>>>(
        &self,
        work: impl FnOnce() -> F + Send,
    ) -> Result<T> {
        let path = self.0.namespace.path();
        let inside = || {
            enter(&path)?;
            self.runtime()?.block_on(work())
        };
        // A thread that has entered does not come back.
        let ran = std::thread::scope(|scope| scope.spawn(inside).join());
        ran.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Makes all addresses of `network` (`10.96.0.0/24`) the site's own, seen nowhere else.
    ///
    /// # Errors
    /// The system refuses.
    pub fn add_network(&self, network: &str) -> Result<()> {
        ip(&["-n", self.name(), "addr", "add", network, "dev", "lo"])
    }

    /// The local ports of TCP connections that are up and not on loopback; sorted, each once.
    pub(super) fn connected_ports(&self) -> Result<Vec<u16>> {
        let table = tool("ip", &["netns", "exec", self.name(), "cat", "/proc/net/tcp"])?;
        let mut ports = Vec::new();
        for line in table.lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [_, local, _, state, ..] = words[..] else { bail!("a strange line: {line}") };
            let (address, port) = local.split_once(':').with_context(|| line.to_owned())?;
            // 01 is established; addresses stand with their last byte first.
            if state == "01" && !address.ends_with("7F") {
                ports.push(u16::from_str_radix(port, 16)?);
            }
        }
        ports.sort_unstable();
        ports.dedup();
        Ok(ports)
    }

    /// Writes a setting of the namespace.
    pub(super) fn write(&self, path: &str, value: &str) -> Result<()> {
        let script = format!("echo {value} > {path}");
        tool("ip", &["netns", "exec", self.name(), "sh", "-c", &script]).map(drop)
    }

    fn runtime(&self) -> Result<&Runtime> {
        self.0.runtime.as_ref().context("the site is gone")
    }
}

/// A namespace by name, with its loopback up. Deleted when dropped; what still runs in it is killed.
#[derive(Debug)]
pub(super) struct Namespace {
    name: String,
}

impl Namespace {
    fn new(name: &str) -> Result<Namespace> {
        tool("ip", &["netns", "add", name])?;
        let namespace = Namespace { name: name.to_owned() };
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Whether one can be made and entered; it goes again at once.
    pub(super) fn probe(name: &str) -> Result<()> {
        let namespace = Namespace::new(name)?;
        let path = namespace.path();
        let entered = std::thread::spawn(move || enter(&path)).join();
        entered.map_err(|_| anyhow::anyhow!("the thread that entered a namespace panicked"))?
    }

    fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("network namespace {} stays behind: {error:#}", self.name);
        }
    }
}

/// Moves this thread, for good.
fn enter(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("enter {}", path.display()))
}

/// Removes a namespace of ours and the processes in it, but not ourselves: threads of this process may still
/// be on their way out.
fn remove(name: &str) -> Result<()> {
    let own = std::process::id().to_string();
    let inside = tool("ip", &["netns", "pids", name])?;
    for pid in inside.split_whitespace().filter(|pid| *pid != own) {
        // It may have ended by itself.
        let _ = tool("kill", &["-KILL", pid]);
    }
    tool("ip", &["netns", "del", name]).map(drop)
}

/// Removes what test processes left behind that were killed.
pub(super) fn reap() -> Result<()> {
    let Ok(entries) = std::fs::read_dir(NAMESPACES) else { return Ok(()) };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split_once('x')).map(|(pid, _)| pid);
        let Some(owner) = owner.filter(|pid| pid.parse::<u32>().is_ok()) else { continue };
        if !Path::new("/proc").join(owner).exists() {
            // Another test process may be at it, too.
            let _ = remove(&name);
        }
    }
    Ok(())
}

/// `ip` with these words.
pub(super) fn ip(words: &[&str]) -> Result<()> {
    tool("ip", words).map(drop)
}

/// Runs a program to its end; what it printed.
pub(super) fn tool(program: &str, words: &[&str]) -> Result<String> {
    let said = || format!("{program} {}", words.join(" "));
    let done = Command::new(program).args(words).stdin(Stdio::null()).output().with_context(said)?;
    let error = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{}: {}", said(), error.trim());
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
