//! Dumps: what is written is read back, and what is not a dump is refused with its line.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use pci::dump::{DumpedFunction, parse};
use pci::{Bdf, ConfigSpace, ErrorKind, RoutingId, Segment};
use proptest::prelude::*;

fn functions() -> impl Strategy<Value = Vec<DumpedFunction>> {
    let bytes = prop_oneof![0..=4096_usize, Just(64), Just(256)];
    let bytes = bytes.prop_flat_map(|len| prop::collection::vec(any::<u8>(), len));
    let title = "[a-zA-Z0-9:(][ -~]{0,60}[a-zA-Z0-9)]";
    let function = (any::<u32>(), any::<u16>(), title, bytes).prop_map(|(segment, routing_id, title, bytes)| {
        let bdf = Bdf::new(Segment(segment), RoutingId(routing_id));
        DumpedFunction {
            bdf,
            title,
            config: ConfigSpace::new(bytes),
        }
    });
    prop::collection::vec(function, 0..5)
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(functions in functions(), blank_lines in any::<bool>(), crlf in any::<bool>()) {
        let separator = if blank_lines { "\n" } else { "" };
        let mut text: String = functions.iter().map(|function| format!("{function}{separator}")).collect();
        if crlf {
            text = text.replace('\n', "\r\n");
        }
        prop_assert_eq!(parse(&text).unwrap(), functions);
    }

    #[test]
    fn described_dumps_are_dumps(functions in functions()) {
        let text: String = functions.iter().map(DumpedFunction::with_text).collect();
        prop_assert_eq!(parse(&text).unwrap(), functions);
    }

    #[test]
    fn any_title_stays_on_its_line(title in any::<String>()) {
        let function = DumpedFunction { bdf: "00:01.0".parse().unwrap(), title, config: ConfigSpace::new(vec![1, 2]) };
        let read = parse(&function.to_string()).unwrap();
        prop_assert_eq!(read.len(), 1);
        prop_assert_eq!(read[0].config.bytes(), [1, 2]);
    }

    #[test]
    fn any_text_is_read_or_refused(text in "([0-9a-f:. \r\n\tg]|\u{e9}|00: 01|00:00.0 x\n){0,200}") {
        if let Err(error) = parse(&text) {
            let ErrorKind::Syntax { line, .. } = error.kind else { panic!("{error}") };
            prop_assert!((1..=text.lines().count()).contains(&line));
        }
    }
}

fn refused(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

#[test]
fn verbose_text_between_title_and_bytes_is_passed_over() {
    let text = "00:1f.0 ISA bridge: x\n\tControl: I/O+\n\tCapabilities: [e0] y\n00: 86 80\n\n0001:3b:00.7 z\n";
    let functions = parse(text).unwrap();
    assert_eq!(functions[0].bdf.to_string(), "0000:00:1f.0");
    assert_eq!(
        (functions[0].title.as_str(), functions[0].config.bytes()),
        ("ISA bridge: x", [0x86, 0x80].as_slice())
    );
    assert_eq!(
        (functions[1].bdf.to_string().as_str(), functions[1].config.bytes().len()),
        ("0001:3b:00.7", 0)
    );
}

#[test]
fn a_gap_is_refused_with_its_line() {
    let message = refused("00:00.0 x\n00: 00 00\n10: 00\n");
    assert_eq!(
        message,
        "0000:00:00.0: read dump: line 3: offset 10 where 02 was expected"
    );
}

#[test]
fn a_repeated_offset_is_refused() {
    assert!(refused("00:00.0 x\n00: 00\n00: 00\n").ends_with("line 3: offset 00 where 01 was expected"));
}

#[test]
fn bytes_without_a_function_are_refused() {
    assert_eq!(
        refused("00: 00\n"),
        "read dump: line 1: bytes that belong to no function"
    );
    assert_eq!(
        refused("00:00.0 x\n00: 00\n\n01: 00\n"),
        "read dump: line 4: bytes that belong to no function"
    );
}

#[test]
fn what_is_not_a_byte_is_refused() {
    let message = refused("00:00.0 x\n00: 0g\n");
    assert_eq!(
        message,
        "0000:00:00.0: read dump: line 2: \"0g\" is not a byte in two hexadecimal digits"
    );
    assert!(refused("00:00.0 x\n00: +1\n").contains("is not a byte"));
}

#[test]
fn a_line_has_at_most_16_bytes_and_a_function_4096() {
    assert!(refused(&format!("00:00.0 x\n00:{}\n", " 00".repeat(17))).ends_with("line 2: more bytes than expected"));
    let lines: String = (0..256)
        .map(|line| format!("{:02x}:{}\n", line * 16, " 00".repeat(16)))
        .collect();
    assert_eq!(
        parse(&format!("00:00.0 x\n{lines}")).unwrap()[0].config.bytes().len(),
        4096
    );
}
