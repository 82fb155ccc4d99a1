use super::*;

fn addresses(groups: &[TargetGroup]) -> Vec<String> {
    let targets = groups.iter().flat_map(|group| &group.targets);
    targets.map(|target| target.get(document::ADDRESS_LABEL).unwrap_or_default().to_owned()).collect()
}

fn write(dir: &Path, name: &str, text: &str) {
    // By renaming, so that the inode differs even within one tick of the file system's clock.
    let new = dir.join("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, dir.join(name)).unwrap();
}

fn watcher(dir: &Path, patterns: &[&str]) -> Watcher {
    Watcher { patterns: patterns.iter().map(|pattern| dir.join(pattern)).collect(), files: BTreeMap::new() }
}

#[test]
fn changes_are_seen_and_bad_files_keep_what_they_said() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut watcher = watcher(dir, &["one.json", "many-*.yml"]);
    assert_eq!(watcher.look(true), Some((Vec::new(), None)), "no file is no error");
    assert_eq!(watcher.look(false), None);

    write(dir, "one.json", r#"[{"targets": ["a:1"], "labels": {"x": "y"}}]"#);
    write(dir, "many-b.yml", "- targets: [b:1]\n");
    write(dir, "many-c.yml", "- targets: [c:1]\n");
    write(dir, "other.yml", "- targets: [d:1]\n");
    let (groups, error) = watcher.look(false).unwrap();
    assert_eq!((addresses(&groups), error), (vec!["b:1".into(), "c:1".into(), "a:1".into()], None));
    let path = shown(&dir.join("one.json"));
    assert_eq!(groups[2].source, format!("{path}:0"));
    assert_eq!(groups[2].labels.get("__meta_filepath"), Some(path.as_str()));
    assert_eq!(watcher.look(false), None, "nothing changed");

    write(dir, "many-b.yml", "- targets: [b:1");
    write(dir, "one.json", "[null]");
    let (groups, error) = watcher.look(false).unwrap();
    assert_eq!(addresses(&groups), ["b:1", "c:1", "a:1"]);
    let error = error.unwrap();
    assert!(error.contains("many-b.yml: "), "{error}");
    assert!(error.ends_with("one.json: nil target group item found (index 0)"), "{error}");
    assert_eq!(watcher.look(false), None, "a bad file is not read again at once");
    assert!(watcher.look(true).unwrap().1.is_some(), "but with all the others");

    write(dir, "many-b.yml", "- targets: [b:2]\n");
    fs::remove_file(dir.join("one.json")).unwrap();
    let (groups, error) = watcher.look(false).unwrap();
    assert_eq!((addresses(&groups), error), (vec!["b:2".into(), "c:1".into()], None));
    fs::remove_file(dir.join("many-c.yml")).unwrap();
    assert_eq!(addresses(&watcher.look(false).unwrap().0), ["b:2"]);
}

#[test]
fn unreadable_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("dir.json")).unwrap();
    let (groups, error) = watcher(dir.path(), &["dir.json"]).look(true).unwrap();
    assert_eq!(groups, []);
    let error = error.unwrap();
    assert!(error.starts_with("read ") && error.contains("dir.json: "), "{error}");
}

#[test]
fn globs_match() {
    for (pattern, name, want) in [
        ("*.json", "a.json", true),
        ("*.json", ".json", true),
        ("*.json", "a.jso", false),
        ("a*b*c.yml", "aXbYbZc.yml", true),
        ("a*b*c.yml", "aXbY.yml", false),
        ("a?.yml", "a1.yml", true),
        ("a?.yml", "a.yml", false),
        ("a?.yml", "aé.yml", true),
        ("*", "anything", true),
        ("**", "", true),
        ("a*", "b", false),
        ("*aab", "aaaaab", true),
        ("", "a", false),
    ] {
        assert_eq!(matches_glob(pattern, name), want, "{pattern} {name}");
    }
}
