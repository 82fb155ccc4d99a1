//! Text to tokens. The language is modal: braces hold labels, where no word is a keyword; brackets
//! hold durations, where a colon separates; elsewhere words may be keywords or names.
//!
//! Source: Prometheus `promql/parser/lex.go` for the words, the modes and the wording of errors.

use crate::ast::{AggregateOp, BinaryOp, Span};
use crate::parser::ParseError;
use crate::parser::quote::{quote, quote_char};

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    End,
    Comma,
    Colon,
    /// `=`
    Equal,
    /// `=~`
    EqualRegex,
    /// `!~`
    NotRegex,
    LeftParen,
    RightParen,
    LeftBrace,
    RightBrace,
    LeftBracket,
    RightBracket,
    At,
    Number,
    Duration,
    String,
    /// A word without colons.
    Identifier,
    /// A word with colons.
    MetricIdentifier,
    Operator(BinaryOp),
    Aggregator(AggregateOp),
    Keyword(Keyword),
    Preprocessor(Preprocessor),
}

/// Words that shape expressions. All may be label names, most of them metric names too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keyword {
    Anchored,
    Bool,
    By,
    Fill,
    FillLeft,
    FillRight,
    GroupLeft,
    GroupRight,
    Ignoring,
    Offset,
    On,
    Smoothed,
    Without,
}

/// Words that stand for a part of the query's own time range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Preprocessor {
    Start,
    End,
    Step,
    Range,
    MaxOf,
    MinOf,
}

/// A token and its place in the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    pub(crate) span: Span,
}

impl Token {
    /// How error messages call the token: `identifier "foo"`, `<op:+>`, `end of input`.
    pub(crate) fn describe(self, text: &str) -> String {
        let value = &text[self.span.start as usize..self.span.end as usize];
        match self.kind {
            Kind::End => "end of input".to_owned(),
            Kind::Operator(_) | Kind::EqualRegex | Kind::NotRegex | Kind::At => format!("<op:{value}>"),
            Kind::Aggregator(_) => format!("<aggr:{value}>"),
            Kind::Keyword(_) => format!("<{value}>"),
            Kind::Identifier => format!("identifier {}", quote(value)),
            Kind::MetricIdentifier => format!("metric identifier {}", quote(value)),
            Kind::String => format!("string {}", shortened(value)),
            Kind::Number => format!("number {}", shortened(value)),
            Kind::Duration => format!("duration {}", shortened(value)),
            _ => shortened(value),
        }
    }
}

/// Quoted, cut after ten characters.
fn shortened(value: &str) -> String {
    if value.len() <= 10 {
        return quote(value);
    }
    let end = value.char_indices().nth(10).map_or(value.len(), |(at, _)| at);
    format!("{}...", quote(&value[..end]))
}

/// The keyword, operator or aggregator that `word` is, in any letter case.
fn keyword(word: &str) -> Option<Kind> {
    use Keyword::*;
    const LONGEST: usize = "count_values".len();
    if word.len() > LONGEST {
        return None;
    }
    let mut lower = [0u8; LONGEST];
    let lower = &mut lower[..word.len()];
    lower.copy_from_slice(word.as_bytes());
    lower.make_ascii_lowercase();
    Some(match &*lower {
        b"and" => Kind::Operator(BinaryOp::And),
        b"or" => Kind::Operator(BinaryOp::Or),
        b"unless" => Kind::Operator(BinaryOp::Unless),
        b"atan2" => Kind::Operator(BinaryOp::Atan2),
        b"sum" => Kind::Aggregator(AggregateOp::Sum),
        b"avg" => Kind::Aggregator(AggregateOp::Avg),
        b"count" => Kind::Aggregator(AggregateOp::Count),
        b"min" => Kind::Aggregator(AggregateOp::Min),
        b"max" => Kind::Aggregator(AggregateOp::Max),
        b"group" => Kind::Aggregator(AggregateOp::Group),
        b"stddev" => Kind::Aggregator(AggregateOp::Stddev),
        b"stdvar" => Kind::Aggregator(AggregateOp::Stdvar),
        b"topk" => Kind::Aggregator(AggregateOp::Topk),
        b"bottomk" => Kind::Aggregator(AggregateOp::Bottomk),
        b"count_values" => Kind::Aggregator(AggregateOp::CountValues),
        b"quantile" => Kind::Aggregator(AggregateOp::Quantile),
        b"limitk" => Kind::Aggregator(AggregateOp::Limitk),
        b"limit_ratio" => Kind::Aggregator(AggregateOp::LimitRatio),
        b"offset" => Kind::Keyword(Offset),
        b"smoothed" => Kind::Keyword(Smoothed),
        b"anchored" => Kind::Keyword(Anchored),
        b"by" => Kind::Keyword(By),
        b"without" => Kind::Keyword(Without),
        b"on" => Kind::Keyword(On),
        b"ignoring" => Kind::Keyword(Ignoring),
        b"group_left" => Kind::Keyword(GroupLeft),
        b"group_right" => Kind::Keyword(GroupRight),
        b"fill" => Kind::Keyword(Fill),
        b"fill_left" => Kind::Keyword(FillLeft),
        b"fill_right" => Kind::Keyword(FillRight),
        b"bool" => Kind::Keyword(Bool),
        b"start" => Kind::Preprocessor(Preprocessor::Start),
        b"end" => Kind::Preprocessor(Preprocessor::End),
        b"step" => Kind::Preprocessor(Preprocessor::Step),
        b"range" => Kind::Preprocessor(Preprocessor::Range),
        b"max_of" => Kind::Preprocessor(Preprocessor::MaxOf),
        b"min_of" => Kind::Preprocessor(Preprocessor::MinOf),
        b"inf" | b"nan" => Kind::Number,
        _ => return None,
    })
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_alphanumeric(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// First letters of the words that brackets may hold: `step`, `range`, `max_of`, `min_of`.
fn starts_duration_word(c: char) -> bool {
    matches!(c.to_ascii_lowercase(), 's' | 'r' | 'm')
}

/// How the next token is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Expression,
    Braces,
    /// Right after `[`, up to the first number; from there on `Expression` with `in_brackets`.
    Brackets,
}

/// Reads tokens one at a time. After an error or the end it must not be asked again.
#[derive(Debug)]
pub(crate) struct Lexer<'a> {
    text: &'a str,
    /// Start of the token being read.
    start: usize,
    at: usize,
    mode: Mode,
    paren_depth: usize,
    in_brackets: bool,
    seen_colon: bool,
    seen_duration: bool,
}

type Lexed = Result<Token, ParseError>;

impl<'a> Lexer<'a> {
    /// A lexer for `text`, at most 4 GiB.
    pub(crate) fn new(text: &'a str) -> Lexer<'a> {
        Lexer {
            text,
            start: 0,
            at: 0,
            mode: Mode::Expression,
            paren_depth: 0,
            in_brackets: false,
            seen_colon: false,
            seen_duration: false,
        }
    }

    /// The next token; comments and spaces are skipped.
    pub(crate) fn next(&mut self) -> Lexed {
        loop {
            match (self.mode, self.peek()) {
                (_, Some(c)) if is_space(c) => {
                    self.take_while(is_space);
                }
                (Mode::Expression | Mode::Braces, Some('#')) => {
                    self.take_while(|c| c != '\n' && c != '\r');
                }
                _ => break,
            }
        }
        self.start = self.at;
        match self.mode {
            Mode::Expression => self.expression(),
            Mode::Braces => self.braces(),
            Mode::Brackets => self.brackets(),
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn accept(&mut self, accepted: impl Fn(char) -> bool) -> bool {
        let taken = self.peek().is_some_and(accepted);
        if taken {
            self.bump();
        }
        taken
    }

    fn take_while(&mut self, accepted: impl Fn(char) -> bool) -> usize {
        let rest = &self.text[self.at..];
        let taken = rest.find(|c| !accepted(c)).unwrap_or(rest.len());
        self.at += taken;
        taken
    }

    fn word(&self) -> &'a str {
        &self.text[self.start..self.at]
    }

    fn token(&self, kind: Kind) -> Lexed {
        Ok(Token { kind, span: Span { start: self.start as u32, end: self.at as u32 } })
    }

    fn error(&self, message: impl Into<String>) -> Lexed {
        self.error_at(self.start, message)
    }

    fn error_at(&self, start: usize, message: impl Into<String>) -> Lexed {
        let span = Span { start: start as u32, end: self.text.len() as u32 };
        Err(ParseError::new(self.text, span, message))
    }

    fn expression(&mut self) -> Lexed {
        let Some(c) = self.bump() else {
            return match (self.paren_depth, self.in_brackets) {
                (0, false) => self.token(Kind::End),
                (0, true) => self.error("unclosed left bracket"),
                _ => self.error("unclosed left parenthesis"),
            };
        };
        match c {
            ',' => self.token(Kind::Comma),
            '*' | '/' | '%' | '+' | '-' | '^' => self.token(arithmetic(c)),
            '=' => match self.peek() {
                Some('=') => self.operator_and(BinaryOp::Eql),
                Some('~') => self.error("unexpected character after '=': '~'"),
                _ => self.token(Kind::Equal),
            },
            '!' => match self.bump() {
                Some('=') => self.token(Kind::Operator(BinaryOp::Neq)),
                other => self.error(format!(
                    "unexpected character after '!': {}",
                    quote_char(other.unwrap_or('\u{fffd}'))
                )),
            },
            '<' => match self.peek() {
                Some('=') => self.operator_and(BinaryOp::Lte),
                Some('/') => self.operator_and(BinaryOp::TrimUpper),
                _ => self.token(Kind::Operator(BinaryOp::Lss)),
            },
            '>' => match self.peek() {
                Some('=') => self.operator_and(BinaryOp::Gte),
                Some('/') => self.operator_and(BinaryOp::TrimLower),
                _ => self.token(Kind::Operator(BinaryOp::Gtr)),
            },
            '"' | '\'' => self.string(c),
            '`' => self.raw_string(),
            '(' => self.left_paren(),
            ')' => self.right_paren(),
            '{' => {
                self.mode = Mode::Braces;
                self.token(Kind::LeftBrace)
            }
            '[' if self.in_brackets => self.error("unexpected left bracket '['"),
            '[' => {
                self.in_brackets = true;
                self.seen_colon = false;
                self.mode = Mode::Brackets;
                self.token(Kind::LeftBracket)
            }
            ']' if !self.in_brackets => self.error("unexpected right bracket ']'"),
            ']' => {
                self.in_brackets = false;
                self.token(Kind::RightBracket)
            }
            '@' => self.token(Kind::At),
            _ if self.starts_number(c) => self.number_or_duration(c),
            _ if self.in_brackets && (is_alpha(c) || c == ':') => self.word_in_brackets(c),
            _ if is_alpha(c) || c == ':' => self.keyword_or_identifier(),
            _ => self.error(format!("unexpected character: {}", quote_char(c))),
        }
    }

    /// The operator whose second character is next.
    fn operator_and(&mut self, op: BinaryOp) -> Lexed {
        self.bump();
        self.token(Kind::Operator(op))
    }

    fn left_paren(&mut self) -> Lexed {
        self.paren_depth += 1;
        self.token(Kind::LeftParen)
    }

    fn right_paren(&mut self) -> Lexed {
        match self.paren_depth.checked_sub(1) {
            Some(depth) => self.paren_depth = depth,
            None => return self.error_at(self.at, "unexpected right parenthesis ')'"),
        }
        self.token(Kind::RightParen)
    }

    /// Inside brackets, behind the first number.
    fn word_in_brackets(&mut self, first: char) -> Lexed {
        if first == ':' {
            if self.seen_colon {
                return self.error("unexpected colon ':'");
            }
            self.seen_colon = true;
            return self.token(Kind::Colon);
        }
        match self.duration_word(first) {
            Some(kind) => self.token(kind),
            None => self.error(format!("unexpected character: {}, expected ':'", quote_char(first))),
        }
    }

    fn duration_word(&mut self, first: char) -> Option<Kind> {
        if !starts_duration_word(first) {
            return None;
        }
        self.take_while(is_alpha);
        match keyword(self.word()) {
            Some(Kind::Preprocessor(Preprocessor::Start | Preprocessor::End)) => None,
            Some(kind @ Kind::Preprocessor(_)) => Some(kind),
            _ => None,
        }
    }

    /// Inside brackets, before the first number.
    fn brackets(&mut self) -> Lexed {
        let Some(c) = self.bump() else {
            return self.error("unexpected end of input in duration expression");
        };
        match c {
            ']' => {
                self.in_brackets = false;
                self.seen_colon = false;
                self.mode = Mode::Expression;
                self.token(Kind::RightBracket)
            }
            ':' if !self.seen_duration => {
                self.error_at(self.at, "unexpected colon before duration in duration expression")
            }
            ':' if self.seen_colon => {
                self.error_at(self.at, "unexpected repeated colon in duration expression")
            }
            ':' => {
                self.seen_colon = true;
                self.token(Kind::Colon)
            }
            '(' => self.left_paren(),
            ')' => self.right_paren(),
            '*' | '/' | '%' | '+' | '-' | '^' => self.token(arithmetic(c)),
            ',' => self.token(Kind::Comma),
            _ if self.starts_number(c) => {
                self.seen_duration = true;
                self.mode = Mode::Expression;
                self.number_or_duration(c)
            }
            _ => match self.duration_word(c) {
                Some(kind) => self.token(kind),
                None => self.error(format!("unexpected character in duration expression: {}", quote_char(c))),
            },
        }
    }

    fn braces(&mut self) -> Lexed {
        let Some(c) = self.bump() else {
            return self.error("unexpected end of input inside braces");
        };
        match c {
            ',' => self.token(Kind::Comma),
            '"' | '\'' => self.string(c),
            '`' => self.raw_string(),
            '=' if self.accept(|c| c == '~') => self.token(Kind::EqualRegex),
            '=' => self.token(Kind::Equal),
            '!' => match self.bump() {
                Some('~') => self.token(Kind::NotRegex),
                Some('=') => self.token(Kind::Operator(BinaryOp::Neq)),
                other => self.error(format!(
                    "unexpected character after '!' inside braces: {}",
                    quote_char(other.unwrap_or('\u{fffd}'))
                )),
            },
            '{' => self.error("unexpected left brace '{'"),
            '}' => {
                self.mode = Mode::Expression;
                self.token(Kind::RightBrace)
            }
            _ if is_alpha(c) => {
                self.take_while(is_alphanumeric);
                self.token(Kind::Identifier)
            }
            _ => self.error(format!("unexpected character inside braces: {}", quote_char(c))),
        }
    }

    /// A quoted string whose opening `quote` has been read. Escapes are checked here and undone in
    /// `literal::unquote`.
    fn string(&mut self, quote: char) -> Lexed {
        loop {
            match self.bump() {
                Some('\\') => {
                    if let Err(message) = self.escape(quote) {
                        return self.error(message);
                    }
                }
                Some('\u{fffd}') => return self.error("invalid UTF-8 rune"),
                None | Some('\n') => return self.error("unterminated quoted string"),
                Some(c) if c == quote => return self.token(Kind::String),
                Some(_) => {}
            }
        }
    }

    fn raw_string(&mut self) -> Lexed {
        loop {
            match self.bump() {
                Some('\u{fffd}') => return self.error("invalid UTF-8 rune"),
                None => return self.error("unterminated raw string"),
                Some('`') => return self.token(Kind::String),
                Some(_) => {}
            }
        }
    }

    /// An escape whose backslash has been read.
    fn escape(&mut self, quote: char) -> Result<(), String> {
        let Some(c) = self.bump() else { return Err("escape sequence not terminated".to_owned()) };
        let (digits, base, max) = match c {
            'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\' => return Ok(()),
            c if c == quote => return Ok(()),
            '0'..='7' => {
                self.at -= 1;
                (3, 8, 255)
            }
            'x' => (2, 16, 255),
            'u' => (4, 16, 0x0010_ffff),
            'U' => (8, 16, 0x0010_ffff),
            c => return Err(format!("unknown escape sequence {}", code_point(c))),
        };
        let mut value = 0u32;
        for _ in 0..digits {
            let Some(c) = self.bump() else { return Err("escape sequence not terminated".to_owned()) };
            let Some(digit) = c.to_digit(base) else {
                return Err(format!("illegal character {} in escape sequence", code_point(c)));
            };
            value = value.wrapping_mul(base).wrapping_add(digit);
        }
        if value > max || (0xd800..0xe000).contains(&value) {
            return Err("escape sequence is an invalid Unicode code point".to_owned());
        }
        Ok(())
    }

    fn keyword_or_identifier(&mut self) -> Lexed {
        self.take_while(|c| is_alphanumeric(c) || c == ':');
        let word = self.word();
        match keyword(word) {
            // These three came late into the language: metrics of that name keep working.
            Some(Kind::Keyword(Keyword::Fill | Keyword::FillLeft | Keyword::FillRight))
                if !self.text[self.at..].trim_start_matches(is_space).starts_with('(') =>
            {
                self.token(Kind::Identifier)
            }
            Some(kind) => self.token(kind),
            None if word.contains(':') => self.token(Kind::MetricIdentifier),
            None => self.token(Kind::Identifier),
        }
    }

    fn starts_number(&self, first: char) -> bool {
        first.is_ascii_digit() || (first == '.' && self.peek().is_some_and(|c| c.is_ascii_digit()))
    }

    fn number_or_duration(&mut self, first: char) -> Lexed {
        self.at -= first.len_utf8();
        if self.scan_number() {
            return self.token(Kind::Number);
        }
        if self.scan_duration_units() {
            return self.token(Kind::Duration);
        }
        self.error(format!("bad number or duration syntax: {}", quote(self.word())))
    }

    /// Reads a decimal, octal, hexadecimal or float number. Says whether one stands here; what it
    /// has read stays read either way. Whether the number is well-formed is for `literal::number`.
    fn scan_number(&mut self) -> bool {
        let decimal = |c: char| c.is_ascii_digit();
        let hex = |c: char| c.is_ascii_hexdigit();
        let mut digit: fn(char) -> bool = decimal;
        let mut hexadecimal = false;
        if self.accept(|c| c == '0') && self.accept(|c| c == 'x' || c == 'X') {
            self.accept(|c| c == '_');
            digit = hex;
            hexadecimal = true;
        }
        self.accept(|c| c == '.');
        self.accept(digit);
        let (mut seen_dot, mut seen_exponent) = (false, false);
        while let Some(c) = self.peek() {
            match c {
                // In hexadecimal `e` is refused as a second exponent before it can be a digit.
                'e' | 'E' if seen_exponent => {
                    self.bump();
                    return false;
                }
                '.' if seen_dot => {
                    self.bump();
                    return false;
                }
                '.' => {
                    self.bump();
                    seen_dot = true;
                    if self.accept(|c| c == '_' || c == '.') || hexadecimal {
                        return false;
                    }
                }
                'e' | 'E' => {
                    self.bump();
                    seen_exponent = true;
                    self.accept(|c| c == '+' || c == '-');
                    if self.accept(|c| matches!(c, '.' | '_' | 'e' | 'E')) || self.peek().is_none() {
                        return false;
                    }
                }
                '_' => {
                    self.bump();
                    if self.accept(|c| matches!(c, '.' | '_' | 'e' | 'E')) || self.peek().is_none() {
                        return false;
                    }
                }
                c if digit(c) => {
                    self.take_while(digit);
                }
                _ => break,
            }
        }
        !self.peek().is_some_and(is_alphanumeric)
    }

    /// Reads the rest of a duration whose first digits have been read. Which units may follow which
    /// is for `literal::duration`.
    fn scan_duration_units(&mut self) -> bool {
        if !self.accept(|c| "smhdwy".contains(c)) {
            return false;
        }
        self.accept(|c| c == 's');
        while self.take_while(|c| c.is_ascii_digit()) > 0 {
            if !self.accept(|c| "smhdw".contains(c)) {
                return false;
            }
            self.accept(|c| c == 's');
        }
        !self.accept(is_alphanumeric)
    }
}

fn arithmetic(c: char) -> Kind {
    Kind::Operator(match c {
        '*' => BinaryOp::Mul,
        '/' => BinaryOp::Div,
        '%' => BinaryOp::Mod,
        '+' => BinaryOp::Add,
        '-' => BinaryOp::Sub,
        _ => BinaryOp::Pow,
    })
}

/// `U+0071 'q'`, without the character where it cannot be shown.
fn code_point(c: char) -> String {
    if c.is_control() { format!("U+{:04X}", c as u32) } else { format!("U+{:04X} '{c}'", c as u32) }
}
