//! Certificates and authorities of the user's own, with real processes: the hub's, the agents', rotation under load,
//! revocation, and what `agent check` says of those that do not work.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use serde_json::Value;
use testkit::http;
use testkit::peers::free_addr;
use testkit::target::FakeTarget;

use crate::{eventually, value};

/// An authority that a user runs.
struct UserCa {
    params: CertificateParams,
    key: KeyPair,
    pem: String,
}

impl UserCa {
    fn new(name: &str) -> Result<UserCa> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(UserCa { params, key, pem })
    }

    /// Writes `<name>.crt` and `<name>.key`.
    fn write(
        &self,
        root: &Path,
        name: &str,
        usage: ExtendedKeyUsagePurpose,
        expires_in: i64,
        common: &str,
    ) -> Result<SerialNumber> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()])?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common);
        params.extended_key_usages = vec![usage];
        let serial = SerialNumber::from(rand::random::<u64>() >> 1);
        params.serial_number = Some(serial.clone());
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(48 * 3600)).into();
        let span = Duration::from_secs(expires_in.unsigned_abs());
        params.not_after = if expires_in < 0 { now - span } else { now + span }.into();
        let certificate = params.signed_by(&key, &Issuer::from_params(&self.params, &self.key))?;
        std::fs::write(root.join(format!("{name}.key")), key.serialize_pem())?;
        std::fs::write(root.join(format!("{name}.crt")), certificate.pem())?;
        Ok(serial)
    }

    /// A list of what this authority has revoked.
    fn revokes(&self, serials: &[SerialNumber]) -> Result<String> {
        let now = SystemTime::now();
        let one = |serial: &SerialNumber| RevokedCertParams {
            serial_number: serial.clone(),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: (now - Duration::from_secs(60)).into(),
            next_update: (now + Duration::from_secs(3600)).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(one).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&Issuer::from_params(&self.params, &self.key))?.pem()?)
    }
}

const HOUR: i64 = 3600;
/// Files are looked at every two seconds; a busy machine adds some.
const CUT_IN: Duration = Duration::from_secs(8);

/// A running process; killed when dropped.
struct Running {
    child: Child,
    listen: SocketAddr,
    log: PathBuf,
}

impl Running {
    async fn start(root: &Path, name: &str, words: Vec<String>, listen: SocketAddr) -> Result<Running> {
        let log = root.join(format!("{name}.log"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_marigraph"));
        let data = root.join(format!("data-{name}"));
        command.args(words).args([format!("--data={}", data.display()), format!("--listen={listen}")]);
        let child = command.stdout(Stdio::null()).stderr(std::fs::File::create(&log)?).spawn()?;
        let running = Running { child, listen, log };
        let begin = Instant::now();
        while http::get(listen, "/-/ready").await.map_or(true, |answer| answer.status != 200) {
            ensure!(begin.elapsed() < crate::PATIENCE, "{name} does not start:\n{}", running.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(running)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    async fn says(&self, what: &str) -> Result<()> {
        let begin = Instant::now();
        while !self.said().contains(what) {
            ensure!(begin.elapsed() < crate::PATIENCE, "nothing of {what:?}:\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A hub with a certificate of `hubs`, which believes agents' certificates of `agents`.
async fn hub(root: &Path, hubs: &UserCa, agents: &UserCa) -> Result<Running> {
    std::fs::write(root.join("hubs-ca.crt"), &hubs.pem)?;
    std::fs::write(root.join("agents-ca.crt"), &agents.pem)?;
    hubs.write(root, "hub", ExtendedKeyUsagePurpose::ServerAuth, HOUR, "hub")?;
    let config = "global: {scrape_interval: 1s}\nfleet:\n  client_authorities:\n  - ca_file: agents-ca.crt\n    tenants: \
                  [default]\n    names:\n    - common_name: '{agent}.{cluster}.corp'\n    - {common_name: old-one, cluster: \
                  gamma, labels: {region: south}}\n";
    std::fs::write(root.join("hub.yml"), config)?;
    let file = |name: &str| root.join(name).display().to_string();
    let words = vec![
        "hub".to_owned(),
        format!("--config={}", file("hub.yml")),
        format!("--tls.cert-file={}", file("hub.crt")),
        format!("--tls.key-file={}", file("hub.key")),
    ];
    Running::start(root, "hub", words, free_addr()?).await
}

/// The flags with which an agent believes and shows the user's certificates.
fn own(root: &Path, certificate: &str) -> Vec<String> {
    let file = |name: &str| root.join(name).display().to_string();
    vec![
        format!("--hub.ca-file={}", file("hubs-ca.crt")),
        format!("--hub.cert-file={}", file(&format!("{certificate}.crt"))),
        format!("--hub.key-file={}", file(&format!("{certificate}.key"))),
    ]
}

async fn agent(root: &Path, hub: &Running, name: &str, further: Vec<String>) -> Result<Running> {
    let mut words = vec!["agent".to_owned(), format!("--hub=https://{}", hub.listen)];
    words.push(format!("--config={}", root.join("agent.yml").display()));
    words.extend(further);
    Running::start(root, name, words, free_addr()?).await
}

async fn marigraph(words: Vec<String>) -> Result<(bool, String)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marigraph"));
    command.args(words).env_remove("RUST_BACKTRACE");
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let text = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
}

async fn check(root: &Path, hub: &Running, further: Vec<String>) -> Result<(bool, String)> {
    let mut words = vec!["agent".to_owned(), "check".to_owned(), format!("--hub=https://{}", hub.listen)];
    words.push(format!("--data={}", root.join("nowhere").display()));
    words.extend(further);
    marigraph(words).await
}

fn agent_config(root: &Path, target: &FakeTarget) -> Result<()> {
    let text = format!(
        "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\nscrape_configs:\n- job_name: buoys\n  \
         static_configs: [{{targets: ['{}']}}]\n",
        target.addr
    );
    Ok(std::fs::write(root.join("agent.yml"), text)?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_with_certificates_of_their_own_feed_a_hub_with_one_of_its_own() -> Result<()> {
    let root = tempfile::tempdir()?;
    let root = root.path();
    let target = FakeTarget::start("tide_metres 3.5\n").await?;
    agent_config(root, &target)?;
    let (hubs, agents) = (UserCa::new("Corp servers")?, UserCa::new("Corp agents")?);
    let hub = hub(root, &hubs, &agents).await?;
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    agents.write(root, "alpha", client.clone(), HOUR, "a1.alpha.corp")?;
    agents.write(root, "gamma", client.clone(), HOUR, "old-one")?;
    let alpha = agent(root, &hub, "alpha", own(root, "alpha")).await?;
    let _gamma = agent(root, &hub, "gamma", own(root, "gamma")).await?;
    // One of the fleet's beside them, which does not know the user's authorities at all.
    let (made, token) = marigraph(
        ["token", "create", "--cluster", "beta", "--json", &format!("--hub=http://{}", hub.listen)]
            .map(str::to_owned)
            .to_vec(),
    )
    .await?;
    ensure!(made, "{token}");
    let token: Value = serde_json::from_str(&token)?;
    let token = format!("--token={}", token["token"].as_str().context("a token")?);
    let _beta = agent(root, &hub, "beta", vec![token]).await?;
    for cluster in ["alpha", "beta", "gamma"] {
        let rows = format!("count_over_time(up{{cluster=\"{cluster}\"}}[1m]) > 3");
        eventually(hub.listen, &rows, |found| !found.is_empty()).await?;
    }
    ensure!(!crate::query(hub.listen, "up{cluster=\"gamma\",region=\"south\"}").await?.is_empty());

    // All files are replaced under load, the certificate before its key: no row is missing, and the new one counts.
    let before = shown(&hub).await?;
    let begun = Instant::now();
    agents.write(root, "alpha", client, HOUR, "a1.alpha.corp")?;
    hubs.write(root, "hub", ExtendedKeyUsagePurpose::ServerAuth, HOUR, "hub")?;
    std::fs::write(root.join("agents-ca.crt"), format!("{}{}", agents.pem, UserCa::new("Next")?.pem))?;
    hub.says("shows a new certificate of your own").await?;
    hub.says("authorities of agents' certificates were read again").await?;
    alpha.says("own certificates were read again").await?;
    loop {
        let now = shown(&hub).await?;
        if serial(&now, "a1.alpha.corp") != serial(&before, "a1.alpha.corp") {
            ensure!(now.as_array().map(Vec::len) == Some(3), "still the same agents: {now}");
            break;
        }
        ensure!(
            begun.elapsed() < crate::PATIENCE,
            "the new certificate does not show: {now}\n{}",
            alpha.said()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let longest = "max_over_time((timestamp(up{cluster=\"alpha\"}) - timestamp(up{cluster=\"alpha\"} offset 1s))[10s:1s])";
    let count = eventually(hub.listen, longest, |found| !found.is_empty()).await?;
    ensure!(value(&count[0])? < 3.0, "a hole while certificates were replaced: {count:?}");

    // Revoked by its name, one is cut off, and another is not.
    let (done, said) = marigraph(
        ["agents", "revoke", "a1.alpha.corp", &format!("--hub=http://{}", hub.listen)]
            .map(str::to_owned)
            .to_vec(),
    )
    .await?;
    ensure!(done, "{said}");
    let listed = shown(&hub).await?;
    for agent in listed.as_array().context("agents")? {
        ensure!(agent["revoked"] == (agent["cluster"] == "alpha"), "{listed}");
    }
    let (good, said) = check(root, &hub, own(root, "alpha")).await?;
    ensure!(!good && said.contains("this agent, or this certificate, was revoked"), "{said}");
    let gone = "time() - max(timestamp(up{cluster=\"alpha\"})) > 2";
    eventually(hub.listen, gone, |found| !found.is_empty()).await?;
    let there = "time() - max(timestamp(up{cluster=\"gamma\"})) < 2";
    eventually(hub.listen, there, |found| !found.is_empty()).await?;
    Ok(())
}

async fn shown(hub: &Running) -> Result<Value> {
    http::get(hub.listen, "/api/v1/admin/agents").await?.json()
}

fn serial(agents: &Value, name: &str) -> Value {
    let found = agents.as_array().into_iter().flatten().find(|agent| agent["brought"] == name);
    found.map(|agent| agent["serial"].clone()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_says_what_is_wrong_with_certificates_of_the_users_own() -> Result<()> {
    let root = tempfile::tempdir()?;
    let root = root.path();
    let (hubs, agents, other) =
        (UserCa::new("Corp servers")?, UserCa::new("Corp agents")?, UserCa::new("Other")?);
    let hub = hub(root, &hubs, &agents).await?;
    let client = || ExtendedKeyUsagePurpose::ClientAuth;
    agents.write(root, "good", client(), HOUR, "a1.alpha.corp")?;
    agents.write(root, "expired", client(), -2 * HOUR, "a1.alpha.corp")?;
    agents.write(root, "server", ExtendedKeyUsagePurpose::ServerAuth, HOUR, "a1.alpha.corp")?;
    agents.write(root, "nameless", client(), HOUR, "www.corp")?;
    other.write(root, "stranger", client(), HOUR, "a1.alpha.corp")?;
    std::fs::copy(root.join("good.crt"), root.join("mixed.crt"))?;
    std::fs::copy(root.join("stranger.key"), root.join("mixed.key"))?;
    for (certificate, works, text) in [
        ("good", true, "to it this is agent own-"),
        ("expired", false, "the certificate brought expired 2 hours ago"),
        ("server", false, "the certificate brought is not for clients"),
        ("nameless", false, "finds no cluster in the certificate brought"),
        ("stranger", false, "no authority that the hub believes has signed the certificate brought"),
        ("mixed", false, "use --hub.cert-file with --hub.key-file"),
    ] {
        let (good, said) = check(root, &hub, own(root, certificate)).await?;
        ensure!(good == works && said.contains(text), "{certificate}: {said}");
    }
    // The hub's certificate is not of what the agent is told to believe.
    std::fs::write(root.join("hubs-ca.crt"), &other.pem)?;
    let (good, said) = check(root, &hub, own(root, "good")).await?;
    ensure!(!good && said.contains("neither the fleet's nor of an authority in --hub.ca-file"), "{said}");
    ensure!(!root.join("nowhere").exists(), "a check makes no directory");
    Ok(())
}

/// Waits until no row of `cluster` comes any more.
async fn cut(hub: &Running, cluster: &str, patience: Duration) -> Result<()> {
    let newest = format!("max(timestamp(up{{cluster=\"{cluster}\"}}))");
    let begin = Instant::now();
    let mut before = (0.0, Instant::now());
    loop {
        let found = crate::query(hub.listen, &newest).await?;
        let now = found.first().map(value).transpose()?.unwrap_or(0.0);
        if now > before.0 {
            before = (now, Instant::now());
        } else if before.1.elapsed() > Duration::from_secs(2) {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < patience + Duration::from_secs(2),
            "{cluster} still sends:\n{}",
            hub.said()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn sends(hub: &Running, cluster: &str) -> Result<()> {
    let fresh = format!("time() - max(timestamp(up{{cluster=\"{cluster}\"}})) < 1.5");
    eventually(hub.listen, &fresh, |found| !found.is_empty()).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_authority_revokes_and_authorities_taken_out_are_cut_off() -> Result<()> {
    let root = tempfile::tempdir()?;
    let root = root.path();
    let target = FakeTarget::start("tide_metres 3.5\n").await?;
    agent_config(root, &target)?;
    let (hubs, agents) = (UserCa::new("Corp servers")?, UserCa::new("Corp agents")?);
    let hub = hub(root, &hubs, &agents).await?;
    let config = std::fs::read_to_string(root.join("hub.yml"))?;
    let reload = || async {
        let status = Command::new("kill").args(["-HUP", &hub.child.id().to_string()]).status()?;
        ensure!(status.success(), "kill -HUP: {status}");
        Ok(())
    };
    std::fs::write(root.join("agents.crl"), agents.revokes(&[])?)?;
    let with_list = config
        .replace("  - ca_file: agents-ca.crt\n", "  - ca_file: agents-ca.crt\n    crl_file: agents.crl\n");
    std::fs::write(root.join("hub.yml"), &with_list)?;
    reload().await?;
    hub.says("configuration reloaded").await?;
    let client = || ExtendedKeyUsagePurpose::ClientAuth;
    let alpha_serial = agents.write(root, "alpha", client(), HOUR, "a1.alpha.corp")?;
    agents.write(root, "beta", client(), HOUR, "b1.beta.corp")?;
    let _alpha = agent(root, &hub, "alpha", own(root, "alpha")).await?;
    let _beta = agent(root, &hub, "beta", own(root, "beta")).await?;
    // A second one with the same certificate, and one of the fleet's that believes the hub by the user's authority.
    let _again = agent(root, &hub, "again", own(root, "beta")).await?;
    let (made, token) = marigraph(
        ["token", "create", "--cluster", "gamma", "--json", &format!("--hub=http://{}", hub.listen)]
            .map(str::to_owned)
            .to_vec(),
    )
    .await?;
    ensure!(made, "{token}");
    let token: Value = serde_json::from_str(&token)?;
    let words = vec![
        format!("--token={}", token["token"].as_str().context("a token")?),
        format!("--hub.ca-file={}", root.join("hubs-ca.crt").display()),
    ];
    let _gamma = agent(root, &hub, "gamma", words).await?;
    for cluster in ["alpha", "beta", "gamma"] {
        sends(&hub, cluster).await?;
    }
    // Two of one name are one agent to the hub; it takes the rows of both.
    let listed = shown(&hub).await?;
    ensure!(listed.as_array().map(Vec::len) == Some(3), "{listed}");

    // By the list of its authority one is cut off, within seconds, and no other.
    std::fs::write(root.join("agents.crl"), agents.revokes(&[alpha_serial])?)?;
    cut(&hub, "alpha", CUT_IN).await?;
    sends(&hub, "beta").await?;
    sends(&hub, "gamma").await?;

    // A configuration without the authority that cannot be put in force as a whole changes nothing.
    let none = "global: {scrape_interval: 1s}\n";
    let broken = "scrape_configs:\n- job_name: x\n  scheme: https\n  tls_config: {ca_file: nowhere.crt}\n  static_configs: \
                  [{targets: ['127.0.0.1:1']}]\n";
    std::fs::write(root.join("hub.yml"), format!("{none}{broken}"))?;
    reload().await?;
    hub.says("reload failed").await?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    sends(&hub, "beta").await?;
    // Without it, those that it has signed are gone, and the fleet's own is not.
    std::fs::write(root.join("hub.yml"), none)?;
    reload().await?;
    cut(&hub, "beta", CUT_IN).await?;
    sends(&hub, "gamma").await?;
    // And back.
    std::fs::write(root.join("hub.yml"), config)?;
    reload().await?;
    sends(&hub, "beta").await?;
    sends(&hub, "alpha").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_follows_when_its_certificate_is_given_to_another_cluster() -> Result<()> {
    let root = tempfile::tempdir()?;
    let root = root.path();
    let target = FakeTarget::start("tide_metres 3.5\n").await?;
    agent_config(root, &target)?;
    let (hubs, agents) = (UserCa::new("Corp servers")?, UserCa::new("Corp agents")?);
    let hub = hub(root, &hubs, &agents).await?;
    let client = || ExtendedKeyUsagePurpose::ClientAuth;
    agents.write(root, "alpha", client(), HOUR, "a1.alpha.corp")?;
    agents.write(root, "beta", client(), HOUR, "b1.beta.corp")?;
    let mut alpha = agent(root, &hub, "alpha", own(root, "alpha")).await?;
    let beta = agent(root, &hub, "beta", own(root, "beta")).await?;
    sends(&hub, "alpha").await?;
    sends(&hub, "beta").await?;
    let config = std::fs::read_to_string(root.join("hub.yml"))?;
    let moved = config.replace(
        "    names:\n",
        "    names:\n    - {common_name: a1.alpha.corp, cluster: delta, labels: {sea: north}}\n",
    );
    ensure!(moved != config, "{config}");

    // The same process goes on under the new name, and the other one is who it was. Then back.
    for (text, cluster, before) in [(&moved, "delta", "alpha"), (&config, "alpha", "delta")] {
        std::fs::write(root.join("hub.yml"), text)?;
        let answer = http::post(hub.listen, "/-/reload", "text/plain", String::new()).await?;
        ensure!(answer.status == 200, "{}", answer.text());
        sends(&hub, cluster).await?;
        cut(&hub, before, CUT_IN).await?;
        sends(&hub, "beta").await?;
        ensure!(alpha.child.try_wait()?.is_none(), "the process has ended:\n{}", alpha.said());
        let told = http::get(alpha.listen, "/api/v1/explain/target?target=buoys/127").await?.json()?;
        ensure!(told["data"]["found"][0]["cluster"] == cluster, "{told}");
    }
    let north = "count_over_time(up{cluster=\"delta\",sea=\"north\"}[1m]) > 0";
    ensure!(!crate::query(hub.listen, north).await?.is_empty());
    ensure!(!beta.said().contains("somebody else"), "{}", beta.said());
    Ok(())
}
