//! `node_memory_*`: `/proc/meminfo`, line by line.
//!
//! Read here and not through the library's struct, so that a line a newer kernel adds shows up
//! under the name node_exporter would give it.

use crate::{CollectError, Family, read_text};

pub(crate) fn collect() -> Result<Vec<Family>, CollectError> {
    Ok(read_text("/proc/meminfo")?.lines().filter_map(family).collect())
}

/// `Active(anon):  123 kB` becomes `node_memory_Active_anon_bytes 125952`; a line without a unit
/// keeps its plain name.
fn family(line: &str) -> Option<Family> {
    let (key, rest) = line.split_once(':')?;
    let mut words = rest.split_ascii_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    let kibibytes = words.next() == Some("kB");
    let name = key.replace('(', "_").replace(')', "");
    let (name, value) = if kibibytes { (format!("{name}_bytes"), number * 1024.0) } else { (name, number) };
    let help = format!("Memory information field {name}.");
    Some(Family::gauge(&format!("node_memory_{name}"), &help).with(value))
}

#[cfg(test)]
mod tests {
    use super::family;

    #[test]
    fn lines_become_families() {
        let check = |line: &str, name: &str, value: f64| {
            let family = family(line).expect("a family");
            assert_eq!((family.name.as_str(), family.samples[0].value), (name, value));
        };
        check("MemTotal:       24576 kB", "node_memory_MemTotal_bytes", 25_165_824.0);
        check("Active(anon):     1 kB", "node_memory_Active_anon_bytes", 1024.0);
        check("HugePages_Total:       3", "node_memory_HugePages_Total", 3.0);
        assert!(family("nonsense").is_none());
        assert!(family("Key: notanumber kB").is_none());
    }
}
