//! `node_network_*`: counters of `/proc/net/dev` and properties of `/sys/class/net`.

use std::path::Path;

use procfs::net::DeviceStatus;

use crate::{CollectError, Family};

type Read = fn(&DeviceStatus) -> u64;

const COUNTERS: &[(&str, Read)] = &[
    ("receive_bytes", |d| d.recv_bytes),
    ("receive_compressed", |d| d.recv_compressed),
    ("receive_drop", |d| d.recv_drop),
    ("receive_errs", |d| d.recv_errs),
    ("receive_fifo", |d| d.recv_fifo),
    ("receive_frame", |d| d.recv_frame),
    ("receive_multicast", |d| d.recv_multicast),
    ("receive_packets", |d| d.recv_packets),
    ("transmit_bytes", |d| d.sent_bytes),
    ("transmit_carrier", |d| d.sent_carrier),
    ("transmit_colls", |d| d.sent_colls),
    ("transmit_compressed", |d| d.sent_compressed),
    ("transmit_drop", |d| d.sent_drop),
    ("transmit_errs", |d| d.sent_errs),
    ("transmit_fifo", |d| d.sent_fifo),
    ("transmit_packets", |d| d.sent_packets),
];

pub(crate) fn devices() -> Result<Vec<Family>, CollectError> {
    let mut devices: Vec<DeviceStatus> = procfs::net::dev_status()?.into_values().collect();
    devices.sort_by(|a, b| a.name.cmp(&b.name));
    let family = |(name, read): &(&str, Read)| {
        let help = format!("Network device statistic {name}.");
        let mut family = Family::counter(&format!("node_network_{name}_total"), &help);
        for device in &devices {
            family.push(&[("device", &device.name)], read(device) as f64);
        }
        family
    };
    Ok(COUNTERS.iter().map(family).collect())
}

/// File name under `/sys/class/net/<device>`, metric name, whether it counts, factor.
const PROPERTIES: &[(&str, &str, bool, f64)] = &[
    ("carrier", "carrier", false, 1.0),
    ("carrier_changes", "carrier_changes_total", true, 1.0),
    ("carrier_down_count", "carrier_down_changes_total", true, 1.0),
    ("carrier_up_count", "carrier_up_changes_total", true, 1.0),
    ("dormant", "dormant", false, 1.0),
    ("ifindex", "iface_id", false, 1.0),
    ("iflink", "iface_link", false, 1.0),
    ("link_mode", "iface_link_mode", false, 1.0),
    ("mtu", "mtu_bytes", false, 1.0),
    ("netdev_group", "net_dev_group", false, 1.0),
    ("speed", "speed_bytes", false, 1_000_000.0 / 8.0),
    ("tx_queue_len", "transmit_queue_length", false, 1.0),
    ("type", "protocol_type", false, 1.0),
];

pub(crate) fn classes() -> Result<Vec<Family>, CollectError> {
    let root = Path::new("/sys/class/net");
    let entries = std::fs::read_dir(root)
        .map_err(|source| CollectError::Read { path: root.display().to_string(), source })?;
    let mut devices: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| root.join(name).is_dir())
        .collect();
    devices.sort();
    // A property that a device does not have reads as an error: it is simply not there.
    let text = |device: &str, file: &str| {
        std::fs::read_to_string(root.join(device).join(file)).ok().map(|text| text.trim().to_owned())
    };

    let mut families = vec![states(&devices, &text)];
    let mut info = Family::gauge(
        "node_network_info",
        "Non-numeric data from /sys/class/net/<iface>, value is always 1.",
    );
    for device in &devices {
        let [address, broadcast, duplex, ifalias, operstate] =
            ["address", "broadcast", "duplex", "ifalias", "operstate"]
                .map(|f| text(device, f).unwrap_or_default());
        let labels = [
            ("device", device.as_str()),
            ("address", &address),
            ("broadcast", &broadcast),
            ("duplex", &duplex),
            ("operstate", &operstate),
            ("ifalias", &ifalias),
        ];
        info.push(&labels, 1.0);
    }
    families.push(info);
    for (file, name, counts, factor) in PROPERTIES {
        let (full, help) = (format!("node_network_{name}"), format!("Network device property: {name}"));
        let mut family = if *counts { Family::counter(&full, &help) } else { Family::gauge(&full, &help) };
        for device in &devices {
            let value: Option<f64> = text(device, file).and_then(|text| text.parse().ok());
            // A link without a speed says -1.
            if let Some(value) = value.filter(|value| *file != "speed" || *value >= 0.0) {
                family.push(&[("device", device)], value * factor);
            }
        }
        families.push(family);
    }
    Ok(families)
}

fn states(devices: &[String], text: &dyn Fn(&str, &str) -> Option<String>) -> Family {
    let mut up = Family::gauge("node_network_up", "Value is 1 if operstate is 'up', 0 otherwise.");
    for device in devices {
        let is_up = text(device, "operstate").as_deref() == Some("up");
        up.push(&[("device", device)], f64::from(u8::from(is_up)));
    }
    up
}
