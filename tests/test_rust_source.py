"""The ruler of test_tidy.py, measured."""

from rust_source import code_only, functions, modules_for_tests
from test_tidy import unjustified

SOURCE = r"""//! fn in_a_comment() {
use x; /* { */
pub fn two<'a>(a: &'a [u8; 2]) -> char {
    '{' }
fn raw() -> &'static str {
    // }
    r#"fn "no" { unsafe "#;
    "\"{"
}
trait T { fn declared(&self); }
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod tests {
    fn long() {
    }
}
fn last() { b'"'; "}" }
"""


def test_functions_are_found_and_measured() -> None:
    found = [(each.name, each.line, each.length) for each in functions(code_only(SOURCE))]
    assert found == [("two", 3, 2), ("raw", 5, 5), ("last", 18, 1)]


def test_code_keeps_its_place() -> None:
    code = code_only(SOURCE)
    assert len(code) == len(SOURCE) and code.count("\n") == SOURCE.count("\n")
    assert "unsafe" not in code and "in_a_comment" not in code


def test_modules_for_tests_are_named() -> None:
    assert modules_for_tests(code_only(SOURCE)) == {"oracle"}


def test_unsafe_without_its_reason_is_found() -> None:
    text = (
        "// SAFETY: because\nunsafe { a() };\n" + "\n" * 8 + "let b = unsafe { b() };\n"
        '/// Does.\n/// # Safety\n/// Much more\n#[inline]\npub unsafe extern "C" fn c() {}\n'
        + "\n" * 8
        + "unsafe impl Send for D {}\n"
        + 'unsafe extern "C" fn callback() {}\n'
        + 'pub unsafe extern "C" fn exported() {}\n'
    )
    assert list(unjustified("x.rs", text)) == ["x.rs:11", "x.rs:25", "x.rs:27"]
