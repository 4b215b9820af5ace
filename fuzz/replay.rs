//! Every input of the corpora through its target: what was found once, and what reaches far, stays found.

#[path = "targets/mod.rs"]
mod targets;

use std::fs;
use std::path::Path;

#[test]
fn the_corpora_run_through() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, _) in targets::ALL {
        let inputs: Vec<_> = fs::read_dir(corpora.join(name)).expect("a corpus").collect();
        assert!(!inputs.is_empty(), "{name} has no corpus");
        for input in inputs {
            let path = input.expect("an input").path();
            println!("{}", path.display());
            targets::named(name)(&fs::read(path).expect("an input"));
        }
    }
}
