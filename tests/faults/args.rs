//! The command line: our own options, and those that `cargo test` hands to every test binary.

use std::time::Duration;

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) seed: u64,
    pub(crate) kills: u64,
    pub(crate) report: Option<String>,
    pub(crate) log_level: String,
    /// Instead of faults: the steady load, so long.
    pub(crate) soak: Option<Duration>,
    /// Several bridges.
    pub(crate) cluster: bool,
    /// So many faults of the cluster; none: one of each kind.
    pub(crate) faults: Option<usize>,
    /// Instead of these: so many kills of the leader.
    pub(crate) takeovers: Option<usize>,
    /// `cluster.takeover`.
    pub(crate) takeover: Duration,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            seed: 1,
            kills: 1,
            report: None,
            log_level: "debug".to_owned(),
            soak: None,
            cluster: false,
            faults: None,
            takeovers: None,
            takeover: Duration::from_secs(3),
        }
    }
}

/// What the arguments ask for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Run(Args),
    Help,
    List,
    /// A filter was given that does not name us.
    Nothing,
    Wrong(String),
}

/// The name filters are matched with.
const NAME: &str = "faults";
/// Of cargo's test options, those with a value.
const WITH_VALUE: [&str; 6] = ["--test-threads", "--format", "--color", "--logfile", "--skip", "-Z"];

pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Asked {
    let mut asked = Args::default();
    let mut filters = Vec::new();
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        let (name, given) = match arg.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (arg.clone(), None),
        };
        let mut value = || given.clone().or_else(|| args.next()).ok_or_else(|| format!("{name} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{text:?} is no number"));
        let taken = match name.as_str() {
            "--help" | "-h" => return Asked::Help,
            "--list" => return Asked::List,
            "--seed" => value().and_then(number).map(|seed| asked.seed = seed),
            "--kills" => value().and_then(number).map(|kills| asked.kills = kills),
            "--report" => value().map(|file| asked.report = Some(file)),
            "--soak" => value().and_then(|text| duration(&text)).map(|how_long| asked.soak = Some(how_long)),
            "--cluster" => {
                asked.cluster = true;
                Ok(())
            }
            "--faults" => value().and_then(|text| count(&text)).map(|faults| asked.faults = Some(faults)),
            "--takeovers" => value().and_then(|text| count(&text)).map(|kills| asked.takeovers = Some(kills)),
            "--takeover" => value().and_then(|text| duration(&text)).map(|takeover| asked.takeover = takeover),
            "--log-level" => value().map(|level| asked.log_level = level),
            "--skip" => value().map(|skipped| {
                if NAME.contains(&skipped) {
                    filters.push("(skipped)".to_owned());
                }
            }),
            // Nothing here is ignored.
            "--ignored" => return Asked::Nothing,
            other if WITH_VALUE.contains(&other) => value().map(drop),
            other if other.starts_with('-') => Ok(()),
            _ => {
                filters.push(arg);
                Ok(())
            }
        };
        if let Err(wrong) = taken {
            return Asked::Wrong(wrong);
        }
    }
    if !filters.is_empty() && !filters.iter().any(|filter| NAME.contains(filter.as_str())) {
        return Asked::Nothing;
    }
    Asked::Run(asked)
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("{text:?} is no duration"))
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

pub(crate) fn self_check() {
    let of = |line: &str| parse(line.split_whitespace().map(str::to_owned));
    let Asked::Run(plain) = of("") else { panic!("no run by default") };
    assert_eq!((plain.seed, plain.kills), (1, 1));
    assert_eq!(of("--nocapture --test-threads 4 --format=terse -q"), Asked::Run(plain.clone()));
    assert_eq!(of("faults"), Asked::Run(plain.clone()));
    assert_eq!(of("blackbox::pushes"), Asked::Nothing);
    assert_eq!(of("--skip faults"), Asked::Nothing);
    assert_eq!(of("--list"), Asked::List);
    let long = Args { seed: 9, kills: 200, report: Some("target/faults.md".to_owned()), ..plain };
    assert_eq!(of("--seed 9 --kills=200 --report target/faults.md"), Asked::Run(long));
    assert!(matches!(of("--soak 30m"), Asked::Run(Args { soak: Some(how_long), .. }) if how_long.as_secs() == 1800));
    let long = Args { cluster: true, faults: Some(200), ..Args::default() };
    assert_eq!(of("--cluster --faults 200"), Asked::Run(long));
    assert!(matches!(of("--kills many"), Asked::Wrong(_)));
}
