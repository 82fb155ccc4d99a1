//! How trees grow: along with operators in a row, down with what is nested.

use super::*;
use crate::ast::Expr;
use crate::depth::LEVELS_MAX;

/// Runs on a stack as a thread of the server has.
fn on_a_small_stack(run: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(run).expect("spawn");
    thread.join().expect("no overflow");
}

/// `middle` with `levels` times `open` before it and `close` behind it, which a bar divides from each
/// other and from what stands around them: `head|open|middle|close|tail`.
fn nested(pattern: &str, levels: usize) -> String {
    let parts: Vec<&str> = pattern.split('|').collect();
    let [head, open, middle, close, tail] = parts[..] else { panic!("{pattern}") };
    format!("{head}{}{middle}{}{tail}", open.repeat(levels), close.repeat(levels))
}

#[test]
fn nesting_is_bounded_on_a_small_stack() {
    on_a_small_stack(|| {
        for (pattern, levels_each) in [
            ("|(|1|)|", 1),
            ("|abs(|m|)|", 1),
            ("|sum by (a) (|m|)|", 1),
            ("|-(|m|)|", 2),
            ("|(1 + |m|)|", 2),
            ("|2 ^ -|m||", 2),
            ("|max_over_time(|m|[1m:])|", 2),
            ("|m or on (a) (1 < m ^ |m|)|", 4),
            ("m[|(|1|)|]", 1),
            ("m[|-(|1|)|]", 2),
            ("m offset (|1 + (|1|)|)", 2),
        ] {
            let deep = parse(&nested(pattern, (LEVELS_MAX - 10) / levels_each), &ParseOptions::all());
            let deep = deep.unwrap_or_else(|error| panic!("{pattern}: {error}"));
            let printed = deep.to_string();
            assert_eq!(parsed(&printed).to_string(), printed, "{pattern}");
            assert!(pretty_within(&deep, 10).len() >= printed.len(), "{pattern}");
            let lower = parsed(&nested(pattern, 200));
            assert_eq!(parsed(&pretty_within(&lower, 10)).to_string(), lower.to_string(), "{pattern}");
            assert_eq!(deep.clone(), deep, "{pattern}");
            assert!(format!("{deep:?}").len() > LEVELS_MAX, "{pattern}");
            let error = parse(&nested(pattern, 40_000), &ParseOptions::all()).expect_err(pattern);
            assert!(error.message.ends_with("nested more than 2000 levels deep"), "{pattern}: {error}");
        }
    });
}

#[test]
fn long_chains_are_no_deeper_than_short_ones() {
    on_a_small_stack(|| {
        for (pattern, count) in [
            ("|1 + |1||", 100_000),
            ("|m or |m||", 50_000),
            ("|m * 2 - 3 > |m||", 20_000),
            ("|m == bool on (a, b) group_left (c) |m||", 10_000),
            ("|a + b * c and d ^ e or |m||", 10_000),
            ("|2 ^ |1||", 100_000),
            ("|m ^ |m||", 20_000),
            ("|-|m||", 100_000),
            ("|-+|(m)||", 100_000),
            ("sum(|m unless |m||)", 10_000),
            ("label_join(m, \"a\", \",\"|, \"x\"|||)", 100_000),
            ("sum by (|aa,|a||) (m)", 100_000),
            ("m + on (|aa,|a||) group_left (b) m", 100_000),
            ("{|a!=\"b\",|a=\"b\"||}", 10_000),
        ] {
            let started = std::time::Instant::now();
            let long = parsed(&nested(pattern, count));
            let printed = long.to_string();
            assert_eq!(parsed(&printed).to_string(), printed, "{pattern}");
            assert_eq!(long.clone(), long, "{pattern}");
            // Widely laid out, every operator has a line of its own.
            assert!(!pretty(&parsed(&nested(pattern, count / 50))).is_empty(), "{pattern}");
            drop(long);
            assert!(started.elapsed() < Duration::from_secs(10), "{pattern}: {:?}", started.elapsed());
        }
    });
}

/// How operators group, with all parentheses written.
pub(super) fn grouped(expr: &Expr) -> String {
    match &expr.kind {
        ExprKind::Chain(chain) if chain.groups_from_right() => {
            let last = chain.operands().next_back().map(grouped).unwrap_or_default();
            let lefts = chain.before_links().zip(&chain.links).rev();
            lefts
                .fold(last, |right, (left, link)| format!("({} {} {right})", grouped(left), link.op.as_str()))
        }
        ExprKind::Chain(chain) => chain.links.iter().fold(grouped(&chain.first), |left, link| {
            format!("({left} {} {})", link.op.as_str(), grouped(&link.operand))
        }),
        ExprKind::Unary(unary) => {
            let signs = unary.signs.iter().map(|sign| if sign.negative { '-' } else { '+' });
            signs.chain(grouped(&unary.operand).chars()).collect()
        }
        ExprKind::Paren(inner) => grouped(inner),
        _ => expr.to_string(),
    }
}

#[test]
fn a_chain_that_is_split_steps_in_from_its_end() {
    let laid_out = |text: &str, bytes: usize| pretty_within(&parsed(text), bytes);
    assert_eq!(laid_out("a + b * c - d", 9), "  a + b * c\n-\n  d");
    assert_eq!(laid_out("a + b * c - d", 5), "    a\n  +\n    b * c\n-\n  d");
    assert_eq!(laid_out("a + b * c - d", 3), "    a\n  +\n      b\n    *\n      c\n-\n  d");
    assert_eq!(laid_out("a ^ b ^ c", 5), "  a\n^\n  b ^ c");
    assert_eq!(laid_out("a ^ b ^ c", 3), "  a\n^\n    b\n  ^\n    c");
    // So long a line of blanks would make the text grow with the square of the chain.
    let deep = laid_out(&nested("|a + |a||", 1000), 1);
    assert_eq!(deep.lines().map(str::len).max(), Some(401));
}
