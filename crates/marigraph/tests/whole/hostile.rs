//! What strangers, broken peers and bad luck send to each door: exactly what they are told, and that
//! everybody else is served meanwhile.

mod giants;
mod lines;
mod queries;
mod targets;
mod writes;

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use marigraph::cli::HubArgs;
use marigraph::hub::Hub;
use testkit::http::{self, Answer};

const NO_SCRAPES: &str = "global: {}\n";
const FORM: &str = "application/x-www-form-urlencoded";

/// Longest an innocent query may take while others misbehave.
const PROMPT: Duration = Duration::from_secs(10);

/// Starts a hub with further flags.
async fn start(directory: &Path, config: &str, flags: &[&str]) -> Result<Hub> {
    let file = directory.join("prometheus.yml");
    std::fs::write(&file, config)?;
    let mut words = vec![
        format!("--data={}", directory.join("data").display()),
        "--listen=127.0.0.1:0".to_owned(),
        "--retention.time=0".to_owned(),
        format!("--config={}", file.display()),
    ];
    words.extend(flags.iter().map(|&flag| flag.to_owned()));
    Hub::start(HubArgs::parse(words)?).await
}

/// Somebody innocent is answered, and promptly.
async fn others_are_served(addr: SocketAddr) -> Result<()> {
    let begin = Instant::now();
    let answer = http::get(addr, "/api/v1/query?query=1%2B1&time=7").await?;
    ensure!(answer.status == 200, "1+1: {} {}", answer.status, answer.text());
    ensure!(
        answer.text() == r#"{"status":"success","data":{"resultType":"scalar","result":[7,"2"]}}"#,
        "{}",
        answer.text()
    );
    ensure!(begin.elapsed() < PROMPT, "1+1 took {:?}", begin.elapsed());
    Ok(())
}

/// What an API error says, or the text of any other answer.
fn told(answer: &Answer) -> String {
    let error = answer
        .json()
        .ok()
        .and_then(|json| Some(format!("{}: {}", json["errorType"].as_str()?, json["error"].as_str()?)));
    error.unwrap_or_else(|| answer.text().trim_end().to_owned())
}

/// The lines of a table that came out otherwise than expected.
#[derive(Default)]
struct Table(Vec<String>);

impl Table {
    fn check(&mut self, name: &str, answer: &Answer, status: u16, text: &str) {
        let (found, said) = (answer.status.as_u16(), told(answer));
        if (found, said.as_str()) != (status, text) {
            let said: String = said.chars().take(600).collect();
            self.0.push(format!("{name}\n  expected {status} {text}\n  found    {found} {said}"));
        }
    }

    fn finish(self) {
        assert!(self.0.is_empty(), "{} differ\n{}", self.0.len(), self.0.join("\n"));
    }
}
