//! A marked block in a file of the user's own: what is between the marks is written, and not one byte outside of them.

use std::ops::Range;

use super::{Configuration, Form};

/// Words that begin a section in HAProxy 2.4 to 3.2.
const SECTIONS: [&str; 19] = [
    "acme",
    "backend",
    "cache",
    "crt-store",
    "defaults",
    "fcgi-app",
    "frontend",
    "global",
    "http-errors",
    "listen",
    "log-forward",
    "log-profile",
    "mailers",
    "peers",
    "program",
    "resolvers",
    "ring",
    "traces",
    "userlist",
];

/// The user's text with this configuration in the block between `# BEGIN mitosis NAME` and `# END mitosis NAME`, where `name` is that of the
/// `ClusterMigration`. Everything else stays as it is, byte by byte.
///
/// # Errors
/// A sentence: the marks are missing, doubled or in the wrong order, or what follows them would change its meaning.
pub fn replace_block(text: &str, name: &str, configuration: &Configuration) -> Result<String, String> {
    let block = find_block(text, name)?;
    if configuration.form().is_variables() && text[..block.start].contains("${MITOSIS_ROUTE_") {
        return Err(format!(
            "a variable of the routes is used before `# BEGIN mitosis {name}`, where it has no value yet: put both marks before it"
        ));
    }
    ensure_own_sections(&text[block.end..], name, configuration.form())?;
    let mut whole = text.to_owned();
    whole.replace_range(block, &configuration.render());
    Ok(whole)
}

/// Where the lines between the marks are.
fn find_block(text: &str, name: &str) -> Result<Range<usize>, String> {
    let marks = [format!("# BEGIN mitosis {name}"), format!("# END mitosis {name}")];
    let [begin, end] = [0, 1].map(|index| list_lines(text, &marks[index]));
    match (begin.as_slice(), end.as_slice()) {
        ([begin], [end]) if begin.end <= end.start && text[..begin.end].ends_with('\n') => Ok(begin.end..end.start),
        ([], []) => Err(format!(
            "it has no place for the routes: add the two lines `{}` and `{}` where they shall be",
            marks[0], marks[1]
        )),
        ([_], [_]) => Err(format!(
            "`{}` must come before `{}`, each on a line of its own",
            marks[0], marks[1]
        )),
        (begin, end) => Err(format!(
            "`{}` is there {} times and `{}` {} times: leave one of each",
            marks[0],
            begin.len(),
            marks[1],
            end.len()
        )),
    }
}

/// Lines that say just this, each with its line break.
fn list_lines(text: &str, mark: &str) -> Vec<Range<usize>> {
    let mut at = 0;
    let lines = text.split_inclusive('\n').map(|line| {
        at += line.len();
        (line, at - line.len()..at)
    });
    lines
        .filter(|(line, _)| line.trim() == mark)
        .map(|(_, range)| range)
        .collect()
}

/// What follows the block must not become part of its last section, nor its proxies take the defaults of the routes for theirs.
fn ensure_own_sections(after: &str, name: &str, form: Form) -> Result<(), String> {
    let lines = after.lines().map(str::trim);
    let mut lines = lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .peekable();
    let word = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    if let Some(first) = lines.peek()
        && !SECTIONS.contains(&word(first).as_str())
    {
        return Err(format!(
            "after `# END mitosis {name}` comes `{}`, which belongs to the section before: put both marks between two sections",
            first.escape_debug()
        ));
    }
    if form.is_variables() {
        return Ok(());
    }
    let proxy = lines
        .take_while(|line| word(line) != "defaults")
        .find(|line| matches!(word(line).as_str(), "frontend" | "backend" | "listen") && !line.contains(" from "));
    match proxy {
        Some(proxy) => Err(format!(
            "`{}` comes after the routes and would take their defaults: put both marks at the end of the file",
            proxy.escape_debug()
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use proptest::prelude::*;

    use super::*;
    use crate::haproxy::{Route, RouteKind, State};

    fn routes(form: Form, generation: u64) -> Configuration {
        let route = Route {
            name: "write".parse().unwrap(),
            listen: 5432.try_into().unwrap(),
            to: vec!["10.0.0.1:5432".parse().unwrap()],
            left_out: BTreeSet::new(),
            drain: Duration::ZERO,
            kind: RouteKind::Primary,
        };
        Configuration::new(form, generation, State::Open, vec![route]).unwrap()
    }

    const BEFORE: &str =
        "global\n    maxconn 4000\r\n\tdescription \"tabs, \u{e9} and trailing blanks\"  \n  # BEGIN mitosis shop\n";
    const AFTER: &str = "# END mitosis shop \r\n\n# the end, without a line break";

    #[test]
    fn the_block_is_written_and_not_one_byte_outside_of_it() {
        let first = routes(Form::Mounted, 1);
        let text = replace_block(&format!("{BEFORE}{AFTER}"), "shop", &first).unwrap();
        assert_eq!(text, format!("{BEFORE}{}{AFTER}", first.render()));
        let second = routes(Form::Mounted, 2);
        let text = replace_block(&text, "shop", &second).unwrap();
        assert_eq!(text, format!("{BEFORE}{}{AFTER}", second.render()));
        assert_eq!(replace_block(&text, "shop", &second).unwrap(), text);
    }

    #[test]
    fn marks_that_are_missing_doubled_or_turned_round_are_refused() {
        let refused = |text: &str| replace_block(text, "shop", &routes(Form::Mounted, 1)).unwrap_err();
        assert!(refused("global\n").contains("add the two lines"));
        assert!(refused("# BEGIN mitosis other\n# END mitosis other\n").contains("add the two lines"));
        assert!(refused("# BEGIN mitosis shop\n").contains("1 times"));
        assert!(refused(&format!("{BEFORE}{AFTER}\n{BEFORE}{AFTER}")).contains("leave one of each"));
        assert!(refused("# END mitosis shop\n# BEGIN mitosis shop\n").contains("must come before"));
    }

    #[test]
    fn what_follows_keeps_its_meaning_or_the_place_is_refused() {
        let place = |after: &str, form| {
            let text = format!("# BEGIN mitosis shop\n# END mitosis shop\n{after}");
            replace_block(&text, "shop", &routes(form, 1)).map(|_| ())
        };
        let refused = |after, form| place(after, form).unwrap_err();
        for form in [Form::Mounted, Form::MountedVariables] {
            assert!(refused("\n    maxconn 9\n", form).contains("between two sections"));
            assert!(place("defaults\n    mode http\nfrontend web\n", form).is_ok());
            assert!(place("backend be from mine\n", form).is_ok());
        }
        assert!(
            refused(
                "resolvers dns\n    nameserver a 10.0.0.1:53\nlisten web\n",
                Form::Mounted
            )
            .contains("listen web")
        );
        assert!(place("frontend web\n", Form::MountedVariables).is_ok());
        let late = "backend b\n    server a \"${MITOSIS_ROUTE_WRITE-10.0.0.1:5432}\"\n# BEGIN mitosis shop\n# END mitosis shop\n";
        let refused = replace_block(late, "shop", &routes(Form::MountedVariables, 1)).unwrap_err();
        assert!(refused.contains("put both marks before it"), "{refused}");
    }

    proptest! {
        #[test]
        fn any_text_is_refused_or_keeps_every_byte_outside_of_the_block(
            before in "([a-z #\r\t\u{e9}]{0,9}\n){0,4}",
            inside in "([a-z #\r]{0,9}\n){0,4}",
            after in "(\n|#[ -~]{0,9}\n|defaults\n|listen x\n){0,4}[ ]{0,3}",
        ) {
            let text = format!("{before}# BEGIN mitosis shop\n{inside}# END mitosis shop\n{after}");
            let routes = routes(Form::Mounted, 3);
            if let Ok(whole) = replace_block(&text, "shop", &routes) {
                let expected = format!("{before}# BEGIN mitosis shop\n{}# END mitosis shop\n{after}", routes.render());
                prop_assert_eq!(whole, expected);
            }
        }
    }
}
