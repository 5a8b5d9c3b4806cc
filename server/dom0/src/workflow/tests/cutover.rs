//! What must be so before a domain runs from its copies, and before the old machine counts as off.

use p2v_copy::Verify;

use super::*;

fn code<T>(result: Result<T, Error>) -> Option<Code> {
    result.err().map(|error| error.code())
}

#[test]
fn a_first_pass_alone_is_no_copy_to_run_from() {
    let lab = lab(1);
    lab.start().unwrap();
    lab.machine().first_pass = true;
    lab.copy_with("vg", |request| request.precopy = true)
        .unwrap();
    lab.machine().first_pass = false;
    lab.stop().unwrap();
    assert_eq!(code(lab.cutover()), Some(Code::NoFinishedCopy));
    assert_eq!(lab.file("domains"), "");
    lab.copy("vg").unwrap();
    lab.cutover().unwrap();
}

#[test]
fn a_copy_that_was_checked_less_is_said_to_be_so() {
    for (verify, is_warned) in [(Verify::Both, false), (Verify::Source, true)] {
        let lab = lab(1);
        lab.copy_with("vg", |request| request.verify = verify)
            .unwrap();
        let warnings = Warnings::default();
        let context = Context {
            report: &warnings,
            ..lab.context()
        };
        cutover(context, &lab.name, CutoverOptions::default()).unwrap();
        let warned = warnings.0.lock().unwrap();
        let said = warned.iter().any(|text| text.contains("--verify source"));
        assert_eq!(said, is_warned, "{warned:?}");
    }
}

#[test]
fn a_machine_that_answers_is_not_off_whatever_the_operator_says() {
    let lab = lab(1);
    lab.copy("vg").unwrap();
    let off = || release(lab.context(), &lab.name, ReleaseOptions { off: true });
    assert_eq!(code(off()), Some(Code::NotMoved));
    lab.cutover().unwrap();
    assert_eq!(code(off()), Some(Code::OldMachineAnswers));
    assert_eq!(lab.state(), State::Moved);
    lab.machine().on = false;
    off().unwrap();
    assert_eq!(lab.state(), State::Released);
    assert_eq!(code(off()), Some(Code::NotMoved));
}
