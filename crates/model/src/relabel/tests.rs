use super::*;
use crate::Labels;

fn spec(action: Action) -> RuleSpec {
    RuleSpec { action, ..RuleSpec::default() }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|name| (*name).to_owned()).collect()
}

/// `labels` after `rule`; `None` when dropped.
fn run(rule: RuleSpec, labels: &[(&str, &str)]) -> Option<String> {
    let rule = Rule::new(rule, NameScheme::Utf8).unwrap();
    let mut builder = LabelsBuilder::from_labels(&Labels::from_pairs(labels.iter().copied()));
    apply(&[rule], &mut builder).then(|| builder.build().to_string())
}

const ABC: &[(&str, &str)] = &[("a", "foo"), ("b", "bar"), ("c", "baz")];

#[test]
fn replace_sets_the_target() {
    let check = |source: &[&str], regex: Option<&str>, target: &str, replacement: &str, want: &str| {
        let rule = RuleSpec {
            source_labels: names(source),
            regex: regex.map(str::to_owned),
            target_label: target.to_owned(),
            replacement: replacement.to_owned(),
            ..RuleSpec::default()
        };
        assert_eq!(run(rule, ABC).as_deref(), Some(want), "{source:?} {regex:?} {target} {replacement}");
    };
    check(&["a"], Some("f(.*)"), "d", "ch${1}-ch${1}", r#"{a="foo", b="bar", c="baz", d="choo-choo"}"#);
    check(&["a", "b"], Some("f(.*);(.*)r"), "a", "b${1}${2}m", r#"{a="boobam", b="bar", c="baz"}"#);
    check(&["a"], None, "d", "$1", r#"{a="foo", b="bar", c="baz", d="foo"}"#);
    check(&["a"], Some("(.*)"), "d", "${1}", r#"{a="foo", b="bar", c="baz", d="foo"}"#);
    check(&["a"], Some("nomatch"), "b", "x", r#"{a="foo", b="bar", c="baz"}"#);
    check(&["a"], Some("oo"), "b", "x", r#"{a="foo", b="bar", c="baz"}"#);
    check(&[], None, "d", "constant", r#"{a="foo", b="bar", c="baz", d="constant"}"#);
    check(&[], None, "a", "", r#"{b="bar", c="baz"}"#);
    check(&["missing"], None, "a", "$1", r#"{b="bar", c="baz"}"#);
    check(&["a"], Some("f(x)?oo"), "b", "$1", r#"{a="foo", c="baz"}"#);
    check(&["a"], Some("(f).*"), "${1}oo", "v", r#"{a="foo", b="bar", c="baz", foo="v"}"#);
    check(&["a"], Some("foo(x*)"), "${1}", "v", r#"{a="foo", b="bar", c="baz"}"#);
    check(&["a"], None, "größe", "$1", r#"{a="foo", b="bar", c="baz", "größe"="foo"}"#);
    check(&["a"], Some("(?P<x>f)o+"), "d", "${x}!", r#"{a="foo", b="bar", c="baz", d="f!"}"#);
}

#[test]
fn sets_are_kept_and_dropped() {
    let check = |action, source: &[&str], regex: Option<&str>, target: &str, kept: bool| {
        let rule = RuleSpec {
            source_labels: names(source),
            regex: regex.map(str::to_owned),
            target_label: target.to_owned(),
            ..spec(action)
        };
        assert_eq!(
            run(rule, &[("a", "foo"), ("b", "foo"), ("c", "baz")]).is_some(),
            kept,
            "{action} {source:?}"
        );
    };
    check(Action::Keep, &["a"], Some("f.*"), "", true);
    check(Action::Keep, &["a"], Some("f"), "", false);
    check(Action::Keep, &["a", "c"], Some("foo;baz"), "", true);
    check(Action::Keep, &["missing"], Some(""), "", true);
    check(Action::Keep, &["missing"], Some(".+"), "", false);
    check(Action::Drop, &["a"], Some("foo|bar"), "", false);
    check(Action::Drop, &["a"], Some("o"), "", true);
    check(Action::Drop, &["a"], None, "", false);
    check(Action::KeepEqual, &["a"], None, "b", true);
    check(Action::KeepEqual, &["a"], None, "c", false);
    check(Action::KeepEqual, &["missing"], None, "neither", true);
    check(Action::DropEqual, &["a"], None, "b", false);
    check(Action::DropEqual, &["a"], None, "c", true);
}

#[test]
fn newlines_are_characters() {
    let rule = RuleSpec { source_labels: names(&["a"]), regex: Some("x.y".to_owned()), ..spec(Action::Keep) };
    assert!(run(rule, &[("a", "x\ny")]).is_some());
}

#[test]
fn case_is_changed() {
    for (action, want) in [
        (Action::Lowercase, r#"{a="Größe İ", d="größe i"}"#),
        (Action::Uppercase, r#"{a="Größe İ", d="GRÖßE İ"}"#),
    ] {
        let rule = RuleSpec { source_labels: names(&["a"]), target_label: "d".to_owned(), ..spec(action) };
        assert_eq!(run(rule, &[("a", "Größe İ")]).as_deref(), Some(want));
    }
}

#[test]
fn hashes_are_those_of_prometheus() {
    let check = |source: &[&str], modulus, want: &str| {
        let target_label = "d".to_owned();
        let rule = RuleSpec { source_labels: names(source), target_label, modulus, ..spec(Action::HashMod) };
        let rule = Rule::new(rule, NameScheme::Utf8).unwrap();
        let mut labels = LabelsBuilder::from_labels(&Labels::from_pairs(ABC.iter().copied()));
        assert!(apply(&[rule], &mut labels));
        assert_eq!(labels.get("d"), Some(want), "{source:?} mod {modulus}");
    };
    check(&["c"], 1000, "976");
    check(&["a"], 1, "0");
    check(&["a", "b"], u64::MAX, "15973639978189266750");
}

#[test]
fn names_are_mapped_dropped_and_kept() {
    let labels: &[(&str, &str)] = &[("a", "foo"), ("b1", "bar"), ("b2", "baz"), ("__meta_x", "y")];
    let check = |action, regex: &str, replacement: &str, want: &str| {
        let regex = Some(regex.to_owned());
        let rule = RuleSpec { regex, replacement: replacement.to_owned(), ..spec(action) };
        assert_eq!(run(rule, labels).as_deref(), Some(want), "{action} {regex:?}", regex = replacement);
    };
    check(
        Action::LabelMap,
        "(b.*)",
        "bar_${1}",
        r#"{__meta_x="y", a="foo", b1="bar", b2="baz", bar_b1="bar", bar_b2="baz"}"#,
    );
    check(Action::LabelMap, "__meta_(.+)", "$1", r#"{__meta_x="y", a="foo", b1="bar", b2="baz", x="y"}"#);
    check(Action::LabelMap, "b.", "a", r#"{__meta_x="y", a="baz", b1="bar", b2="baz"}"#);
    check(Action::LabelDrop, "b.*", "$1", r#"{__meta_x="y", a="foo"}"#);
    check(Action::LabelKeep, "b.*|a", "$1", r#"{a="foo", b1="bar", b2="baz"}"#);
}

#[test]
fn rules_run_in_order_until_one_drops() {
    let set = |target: &str, replacement: &str| RuleSpec {
        target_label: target.to_owned(),
        replacement: replacement.to_owned(),
        ..RuleSpec::default()
    };
    let keep = RuleSpec { source_labels: names(&["x"]), regex: Some("2".to_owned()), ..spec(Action::Keep) };
    let compile = |specs: Vec<RuleSpec>| -> Vec<Rule> {
        specs.into_iter().map(|spec| Rule::new(spec, NameScheme::Utf8).unwrap()).collect()
    };
    let rules = compile(vec![set("x", "1"), set("x", "2"), keep.clone()]);
    assert!(apply(&rules, &mut LabelsBuilder::default()));
    let rules = compile(vec![set("x", "1"), keep, set("x", "2")]);
    assert!(!apply(&rules, &mut LabelsBuilder::default()));
    assert!(apply(&[], &mut LabelsBuilder::default()));
}

#[test]
fn bad_rules_say_why() {
    let base = spec;
    let target = |action, target: &str| RuleSpec { target_label: target.to_owned(), ..spec(action) };
    let replacing =
        |action, replacement: &str| RuleSpec { replacement: replacement.to_owned(), ..target(action, "t") };
    for (rule, want) in [
        (base(Action::Replace), "relabel configuration for replace action requires 'target_label' value"),
        (base(Action::Lowercase), "relabel configuration for lowercase action requires 'target_label' value"),
        (base(Action::KeepEqual), "relabel configuration for keepequal action requires 'target_label' value"),
        (target(Action::HashMod, "t"), "relabel configuration for hashmod requires non-zero modulus"),
        (
            RuleSpec { modulus: 8, ..base(Action::HashMod) },
            "relabel configuration for hashmod action requires 'target_label' value",
        ),
        (target(Action::Replace, "${3"), r#""${3" is invalid 'target_label' for replace action"#),
        (target(Action::Replace, "a${}b"), r#""a${}b" is invalid 'target_label' for replace action"#),
        (replacing(Action::Lowercase, "x"), "'replacement' can not be set for lowercase action"),
        (replacing(Action::DropEqual, "x"), "'replacement' can not be set for dropequal action"),
        (
            RuleSpec { replacement: "${".to_owned(), ..base(Action::LabelMap) },
            r#""${" is invalid 'replacement' for labelmap action"#,
        ),
        (
            RuleSpec { regex: Some("(.*)".to_owned()), ..target(Action::KeepEqual, "t") },
            "keepequal action requires only 'source_labels' and `target_label`, and no other fields",
        ),
        (
            RuleSpec { separator: ",".to_owned(), ..target(Action::DropEqual, "t") },
            "dropequal action requires only 'source_labels' and `target_label`, and no other fields",
        ),
        (target(Action::LabelDrop, "t"), "labeldrop action requires only 'regex', and no other fields"),
        (
            RuleSpec { source_labels: names(&["a"]), ..base(Action::LabelKeep) },
            "labelkeep action requires only 'regex', and no other fields",
        ),
        (
            RuleSpec { source_labels: names(&["a", ""]), ..base(Action::Keep) },
            r#""" is not a valid label name"#,
        ),
        (
            RuleSpec { regex: Some("(".to_owned()), ..base(Action::Keep) },
            "error parsing regexp: missing closing ): `^(?s:()$`",
        ),
        (
            RuleSpec { regex: Some("a**".to_owned()), ..base(Action::Keep) },
            "error parsing regexp: invalid nested repetition operator: `**`",
        ),
    ] {
        assert_eq!(Rule::new(rule.clone(), NameScheme::Utf8).unwrap_err().to_string(), want, "{rule:?}");
    }
    assert_eq!(Action::parse("LabelMap"), Ok(Action::LabelMap));
    assert_eq!(Action::parse("explode").unwrap_err().to_string(), r#"unknown relabel action "explode""#);
}

#[test]
fn legacy_names_are_checked_where_asked_for() {
    let rule = |target: &str| RuleSpec { target_label: target.to_owned(), ..RuleSpec::default() };
    for (target, valid) in
        [("abc_1", true), ("1abc", false), ("größe", false), ("a_${1}b", true), ("a-$1", false)]
    {
        assert_eq!(Rule::new(rule(target), NameScheme::Legacy).is_ok(), valid, "{target}");
    }
    let bad = Rule::new(rule("0ab"), NameScheme::Legacy).unwrap_err().to_string();
    assert_eq!(bad, r#""0ab" is invalid 'target_label' for replace action"#);
    let odd = RuleSpec { source_labels: names(&["a-b"]), ..spec(Action::Keep) };
    assert!(Rule::new(odd, NameScheme::Legacy).is_err());
    // A name that only turns out wrong when it is expanded changes nothing.
    let expanded = RuleSpec { source_labels: names(&["a"]), ..rule("x$1") };
    let mut labels = LabelsBuilder::from_labels(&Labels::from_pairs([("a", "-")]));
    assert!(apply(&[Rule::new(expanded, NameScheme::Legacy).unwrap()], &mut labels));
    assert_eq!(labels.build().to_string(), r#"{a="-"}"#);
}
