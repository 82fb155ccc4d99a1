//! Flags, logging, signals; everything else is in the library, so that tests can run it whole.

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use marigraph::agent::Agent;
use marigraph::cli::{AgentArgs, Check, Cli, Command, HubArgs};
use marigraph::hub::Hub;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::MissedTickBehavior;

fn main() -> ExitCode {
    stdx::memory::keep_little();
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Check { what: Check::Config { file } } => marigraph::verbs::check::config(&file),
        Command::Check { what: Check::Metrics(args) } => match marigraph::verbs::check::metrics(&args) {
            Ok(0) => Ok(()),
            // As promtool: the exposition is one, but not as it could be.
            Ok(_) => return ExitCode::from(3),
            Err(error) => Err(error),
        },
        Command::Check { what: Check::Healthy(args) } => marigraph::verbs::check::probe(&args, "/-/healthy"),
        Command::Check { what: Check::Ready(args) } => marigraph::verbs::check::probe(&args, "/-/ready"),
        Command::Tsdb { verb } => marigraph::verbs::tsdb::run(&verb),
        Command::Query(args) => marigraph::verbs::query::run(&args),
        Command::Promql { verb } => marigraph::verbs::promql::run(&verb),
        Command::Push { verb } => marigraph::verbs::push::run(&verb),
        Command::Fleet(args) => marigraph::verbs::fleet::run(&args),
        Command::Ledger { verb } => marigraph::verbs::ledger::run(&verb),
        Command::Drill { verb } => marigraph::verbs::ledger::drill(&verb),
        Command::Backup(args) => marigraph::verbs::backup::run(&args),
        Command::Restore(args) => marigraph::verbs::backup::restore(&args),
        Command::Token { verb } => marigraph::verbs::membership::token(&verb),
        Command::Explain { verb } => {
            marigraph::verbs::fleet::listing::explain(&verb, &mut std::io::stdout().lock())
        }
        Command::Limits { verb } => marigraph::verbs::limits::run(&verb),
        Command::Agents { verb } => marigraph::verbs::membership::agents(&verb),
        Command::Ca { verb } => marigraph::verbs::membership::ca(&verb),
        Command::Hub(hub) => match hub.verb {
            Some(verb) => marigraph::verbs::membership::hub(&verb),
            None => marigraph::logging::start(&cli.log).and_then(|()| run_hub(hub.run)),
        },
        Command::Agent(agent) => match agent.verb {
            Some(verb) => marigraph::verbs::membership::agent(&verb),
            None => marigraph::logging::start(&cli.log).and_then(|()| run_agent(agent.run)),
        },
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("marigraph: {}", marigraph::told(&error));
            ExitCode::FAILURE
        }
    }
}

/// What runs until it is told to end.
trait Role {
    async fn reload(&self);
    async fn quit_requested(&self);
}

impl Role for Hub {
    async fn reload(&self) {
        Hub::reload(self).await;
    }

    async fn quit_requested(&self) {
        Hub::quit_requested(self).await;
    }
}

impl Role for Agent {
    async fn reload(&self) {
        Agent::reload(self).await;
    }

    async fn quit_requested(&self) {
        Agent::quit_requested(self).await;
    }
}

/// What the system may tell us.
struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Listening comes first: a SIGTERM during a long start must not be lost.
    fn listen() -> std::io::Result<Signals> {
        Ok(Signals {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits until one of them says to end.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
    }

    /// Reloads `role` when that is asked for, until it is told to end.
    async fn attend(&mut self, role: &impl Role) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => role.reload().await,
                _ = self.terminate.recv() => return tracing::info!("SIGTERM: stopping"),
                _ = self.interrupt.recv() => return tracing::info!("SIGINT: stopping"),
                () = role.quit_requested() => return tracing::info!("asked to quit: stopping"),
            }
        }
    }
}

fn run_hub(args: HubArgs) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        let hub = Hub::start(args).await?;
        hub.greet();
        signals.attend(&hub).await;
        hub.stop().await
    })
}

/// Processors of an agent that share one of the allocator's heaps.
const PROCESSORS_PER_HEAP: usize = 4;
/// Pieces of an agent's memory that are mapped each by itself.
const MAPPED_BYTES: usize = 64 << 10;
/// How often an agent gives back what scrapes have left free. That takes about a millisecond, and is a quarter of what it
/// would hold otherwise.
const GIVE_BACK_EVERY: Duration = Duration::from_secs(10);

fn run_agent(args: AgentArgs) -> anyhow::Result<()> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    stdx::memory::share_heaps(processors.div_ceil(PROCESSORS_PER_HEAP));
    // Bodies and blocks come and go all the time, between lines and names that stay.
    stdx::memory::map_alone(MAPPED_BYTES);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::listen()?;
        tokio::spawn(give_back());
        loop {
            // Enrolment may wait for a hub for long.
            let agent = tokio::select! {
                agent = Agent::start(args.clone()) => agent?,
                () = signals.end() => return Ok(()),
            };
            tracing::info!("the agent's own API is at http://{}", agent.addr());
            let is_over = tokio::select! {
                () = signals.attend(&agent) => true,
                () = agent.is_somebody_else() => false,
            };
            agent.stop().await?;
            if is_over {
                return Ok(());
            }
        }
    })
}

async fn give_back() {
    let mut due = tokio::time::interval(GIVE_BACK_EVERY);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        // Whatever becomes of it, there is a next time.
        let _ = tokio::task::spawn_blocking(stdx::memory::give_back).await;
    }
}
