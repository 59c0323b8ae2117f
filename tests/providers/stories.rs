//! The operator's story of each provider (`src/policy/stories/*.md`), told again: the same commands by the real command line, the same
//! calls, and the pages must come out as they stand. `TOLLGATE_STORIES=write` writes them.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::AsyncWriteExt as _;

use super::world::{PASSES, World};

mod told;

/// A page that is being told.
pub(super) struct Story {
    pub(super) world: World,
    name: &'static str,
    page: String,
    /// The page's end is what stood on a terminal.
    on_terminal: bool,
}

impl Story {
    /// Begins a page: its title, and what it is about.
    pub(super) async fn of(name: &'static str, world: World, title: &str, about: &str) -> Self {
        let page = format!("# {title}\n\n{about}\n");
        Self {
            world,
            name,
            page,
            on_terminal: false,
        }
    }

    /// A paragraph.
    pub(super) fn say(&mut self, text: &str) {
        self.on_terminal = false;
        self.page.push_str(&format!("\n{text}\n"));
    }

    /// Moves the clock to so long after the mark, with what follows by itself.
    pub(super) async fn at(&mut self, offset: i64, text: &str) {
        self.world.at(offset);
        self.world.quiet().await;
        self.say(text);
    }

    /// A command, and all that it says.
    pub(super) async fn cli(&mut self, line: &str) {
        self.cli_of(line, &[]).await;
    }

    /// A command, and of what it says the lines that begin with one of these words; all if there are none.
    pub(super) async fn cli_of(&mut self, line: &str, words: &[&str]) {
        self.cli_in(line, "", words).await;
    }

    /// The same with a line of standard input.
    pub(super) async fn cli_in(&mut self, line: &str, input: &str, words: &[&str]) {
        let control = format!("http://{}", self.world.running.control_addr);
        let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
            .args(split(line))
            .env("TOLLGATE_CONTROL", control)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut pipe = child.stdin.take().unwrap();
        // A command that asks for none may have ended.
        let _ = pipe.write_all(format!("{input}\n").as_bytes()).await;
        drop(pipe);
        let output = child.wait_with_output().await.unwrap();
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        let mut shown = String::new();
        let mut left_out = false;
        for line in said.iter().flat_map(|text| text.lines()) {
            let first = line.split_whitespace().next().unwrap_or_default();
            if words.is_empty() || words.contains(&first) {
                shown.push_str(&format!("{}\n", line.trim_end()));
            } else {
                left_out = true;
            }
        }
        if left_out {
            shown.push_str("…\n");
        }
        let piped = if input.is_empty() {
            String::new()
        } else {
            format!("echo {input} | ")
        };
        self.show(&format!("$ {piped}tollgate {line}\n{shown}"));
        self.world.quiet().await;
    }

    /// A call, and what its caller sees: the head's first line, the reason, and a refusal's words.
    pub(super) async fn call(&mut self, model: &str) {
        self.call_of(model, 0).await;
    }

    /// The same for an answer of so many tokens.
    pub(super) async fn call_of(&mut self, model: &str, tokens: u64) {
        let seen = self.world.call_as("sk-caller-a", model, tokens).await;
        let asked = match tokens {
            0 => format!("call {model}"),
            tokens => format!("call {model}    # an answer of {tokens} tokens"),
        };
        let mut shown = format!("$ {asked}\n{}\n", seen.0.start);
        if seen.said() != PASSES {
            let message = seen.0.json()["error"].clone();
            shown.push_str(&format!(
                "x-tollgate-reason: {}\n\n{message}\n",
                seen.said()
            ));
        }
        self.show(&shown);
    }

    /// What stood on a terminal: one after the other, in one block.
    fn show(&mut self, shown: &str) {
        match self.page.strip_suffix("```\n") {
            Some(before) if before.ends_with('\n') && self.on_terminal => {
                self.page = format!("{before}\n{shown}```\n");
            }
            _ => self.page.push_str(&format!("\n```console\n{shown}```\n")),
        }
        self.on_terminal = true;
    }

    /// The page is as it stands, or is written.
    pub(super) fn end(self) {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("src/policy/stories")
            .join(format!("{}.md", self.name));
        if std::env::var("TOLLGATE_STORIES").is_ok_and(|how| how == "write") {
            std::fs::write(&file, &self.page).unwrap();
        }
        let stands = std::fs::read_to_string(&file).unwrap_or_default();
        let differs = self
            .page
            .lines()
            .zip(stands.lines())
            .find(|(told, stands)| told != stands);
        assert!(
            self.page == stands,
            "{} differs, first at {differs:?}; TOLLGATE_STORIES=write writes it again",
            file.display()
        );
    }
}

/// The words of a line; those in single quotes are one.
fn split(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    let words = parts.flat_map(|(n, part)| match n % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}
