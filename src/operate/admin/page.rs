//! The status page: one embedded file with placeholders, filled here section by section.
//!
//! `maud` escapes every value. A section's HTML is the same whether it comes with the page or later as an event. Style and
//! script are allowed by their digests alone, so nothing else would run even if a value got through unescaped.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use crate::observe::activity::{Passed, Verdict, Way};
use crate::operate::set_aside::{Entry, Publish};
use crate::operate::status::{Overview, Part, Problem};

const PAGE: &str = include_str!("page.html");

/// The page's policy: itself, and nothing from elsewhere. Who may frame it depends on the request.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let digest = |tag: &str| {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let inside =
            PAGE.split_once(&open).and_then(|(_, rest)| rest.split_once(&close)).map_or("", |(inside, _)| inside);
        STANDARD.encode(Sha256::digest(inside))
    };
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'self'",
        digest("style"),
        digest("script")
    )
});

/// A part of the page that changes by itself: its element's id and its HTML.
pub(super) type Section = (&'static str, String);
/// So many there are.
pub(super) const SECTIONS: usize = 8;

/// The whole page. `word`: what its forms hold; it has none without.
pub(super) fn page(overview: &Overview, word: Option<&SecretString>) -> String {
    let mut places = Vec::from(sections(overview, word).map(|(id, html)| (id, html)));
    let now = html! { "as of " (time(&overview.health.time)) };
    places.extend([
        ("title", html! { "ilink2mqtt " (overview.info.uid) }.into_string()),
        ("header", header(overview).into_string()),
        ("now", now.into_string()),
    ]);
    fill(&places)
}

/// In one pass: what is filled in is not looked at again.
fn fill(places: &[Section]) -> String {
    let mut parts = PAGE.split("{{");
    let mut page = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (place, rest) = part.split_once("}}").unwrap_or((part, ""));
        page.extend(places.iter().filter(|(id, _)| *id == place).map(|(_, html)| html.as_str()));
        page.push_str(rest);
    }
    page
}

/// What changes.
pub(super) fn sections(overview: &Overview, word: Option<&SecretString>) -> [Section; SECTIONS] {
    [
        ("problems", problems(&overview.problems)),
        ("parts", parts(overview)),
        ("rates", rates(overview)),
        ("queues", queues(overview)),
        ("advice", advice(&overview.problems)),
        ("set_aside", set_aside(overview, word)),
        ("messages", messages(&overview.messages)),
        ("counters", counters(overview)),
    ]
    .map(|(id, markup)| (id, markup.into_string()))
}

fn header(overview: &Overview) -> Markup {
    let info = &overview.info;
    html! {
        p { "uid " (info.uid) " · " (info.version) " · running since " (time(&info.started_at)) }
    }
}

fn problems(problems: &[Problem]) -> Markup {
    let grave: Vec<_> = problems.iter().filter(|problem| problem.grave).collect();
    html! {
        @match grave.len() {
            0 => p { "All is well" },
            1 => p.bad { "Something is wrong" },
            more => p.bad { (more) " things are wrong" },
        }
        (list(&grave))
    }
}

/// What is no trouble stands apart from it.
fn advice(problems: &[Problem]) -> Markup {
    let advice: Vec<_> = problems.iter().filter(|problem| !problem.grave).collect();
    html! {
        @if !advice.is_empty() { section { h2 { "Advice" } (list(&advice)) } }
    }
}

fn list(problems: &[&Problem]) -> Markup {
    html! {
        @if !problems.is_empty() {
            ul {
                @for Problem { part, cause, since, .. } in problems {
                    li {
                        strong { (part) @if let Some(since) = since { small.faint { " since " (time(since)) } } }
                        (cause)
                    }
                }
            }
        }
    }
}

fn parts(overview: &Overview) -> Markup {
    let (health, ready) = (&overview.health, &overview.ready);
    let part = |name: &str, part: &Part, good: &str, bad: &str| {
        html! { dt { (name) } dd { (state(part.ready, if part.ready { good } else { bad })) " " small { "since " (time(&part.since)) } } }
    };
    let not_stored = match ready.spool.kind {
        Some("full") => "full",
        Some("failed") => "failed",
        _ => "not writable",
    };
    let moment = |name: &str, at: Option<&String>| {
        html! { dt { (name) } dd { @match at { Some(at) => (time(at)), None => span.faint { "not in this run" } } } }
    };
    html! {
        dl {
            @if let Some(cluster) = &overview.cluster {
                dt { "Cluster" } dd { (state(cluster.health.leader.is_some(), &cluster.line())) }
            }
            dt { "iLink" }
            dd { (state(health.cloud.state == "online", health.cloud.state)) " " small { "since " (time(&health.cloud.since)) } }
            @for closed in &health.cloud.closed {
                dt { code { (closed.endpoint) } } dd { (state(false, &closed.cause)) " " small { "since " (time(&closed.since)) } }
            }
            (part("Broker", &ready.broker, "connected", "not connected"))
            (part("Subscriptions", &ready.subscriptions, "granted", "not granted"))
            (part("Callback", &ready.callback, "registered", "not registered"))
            (part("Spool", &ready.spool, "writable", not_stored))
            (moment("Last push", health.callback.last_push_at.as_ref()))
            (moment("Last handshake", health.callback.last_get_at.as_ref()))
            @if let Some(left) = health.token_expires_in_s {
                dt { "Access token" } dd { "for another " (duration(left)) }
            }
        }
    }
}

fn state(good: bool, text: &str) -> Markup {
    html! { span.dot.good[good].bad[!good] { (text) } }
}

fn rates(overview: &Overview) -> Markup {
    let from: Vec<u64> = overview.minutes.iter().map(|minute| minute.from_ilink).collect();
    let to: Vec<u64> = overview.minutes.iter().map(|minute| minute.to_ilink).collect();
    html! { (plot("From iLink", "in", &from)) (plot("To iLink", "out", &to)) }
}

fn queues(overview: &Overview) -> Markup {
    let queues = &overview.health.queues;
    html! {
        table {
            thead { tr { th { "" } th.number { "waiting" } th.number { "oldest" } th.number { "size" } } }
            tbody {
                @for (name, queue, limit) in [
                    ("from iLink", &queues.inbound, Some(overview.queue_limit)),
                    ("to iLink", &queues.outbound, Some(overview.queue_limit)),
                    ("set aside", &queues.set_aside, None),
                ] {
                    tr {
                        th scope="row" { (name) }
                        td.number { (queue.depth) }
                        td.number { @if let Some(age) = queue.oldest_s { (duration(age)) } @else { "–" } }
                        td.number {
                            (size(queue.bytes))
                            @if let Some(limit) = limit {
                                " " small { "of " (size(limit)) }
                                @if queue.bytes > limit / 100 {
                                    meter min="0" max=(limit) high=(limit / 5 * 4) value=(queue.bytes) title=(name) {}
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The oldest that are set aside, and with `word` a form for each and for all.
fn set_aside(overview: &Overview, word: Option<&SecretString>) -> Markup {
    let depth = overview.health.queues.set_aside.depth;
    html! {
        @if depth > 0 {
            section {
                h2 { "Set aside" }
                p.faint {
                    "The broker refused these for good. When the cause is gone, they can be sent again."
                    @if overview.set_aside.len() as u64 != depth { " The oldest of " (depth) ":" }
                }
                @if let Some(word) = word { (form(word, None)) }
                ul { @for entry in &overview.set_aside { (entry_item(entry, word)) } }
            }
        }
    }
}

fn entry_item(Entry { id, kind, at, from, refused, content }: &Entry, word: Option<&SecretString>) -> Markup {
    html! {
        li {
            strong { (kind) @if let Some(from) = from { " from " bdi { (from) } } }
            " " small.faint { (time(at)) " " code { (id) } }
            @if let Some(content) = content { bdi.content { (content) } }
            @for Publish { topic, bytes, why } in refused {
                p { bdi { (topic) } ", " (size(*bytes)) ": " (why) }
            }
            @if let Some(word) = word { (form(word, Some(id))) }
        }
    }
}

/// It works without scripts.
fn form(word: &SecretString, id: Option<&str>) -> Markup {
    html! {
        form method="post" action="set-aside" {
            input type="hidden" name="word" value=(word.expose_secret());
            @match id {
                Some(id) => input type="hidden" name="id" value=(id);,
                None => input type="hidden" name="all" value="";,
            }
            button name="do" value="retry" { @if id.is_some() { "Send again" } @else { "Send all again" } }
            " "
            button name="do" value="drop" { @if id.is_some() { "Drop" } @else { "Drop all" } }
        }
    }
}

fn messages(messages: &[Passed]) -> Markup {
    html! {
        @if messages.is_empty() {
            p.faint { "None in this run." }
        } @else {
            table {
                thead { tr { th { "Time" } th { "Kind" } th.number { "Size" } th { "From, to" } th { "Outcome" } th.number { "Took" } th { "Id" } } }
                tbody { @for message in messages { (row(message)) } }
            }
        }
    }
}

fn row(message: &Passed) -> Markup {
    let Passed { at, way, kind, id, from, to, bytes, verdict, outcome, took_ms, content } = message;
    let (arrow, class, whither) = match way {
        Way::FromIlink => ("↓", "way in", "from iLink"),
        Way::ToIlink => ("↑", "way out", "to iLink"),
    };
    let verdict = match verdict {
        Verdict::Good => "good",
        Verdict::Odd => "odd",
        Verdict::Bad => "bad",
    };
    html! {
        tr {
            td { (time(&at.to_string())) }
            td { span class=(class) title=(whither) { (arrow) } " " (kind) }
            td.number { @if let Some(bytes) = bytes { (size(*bytes as u64)) } }
            td.who {
                bdi { (from.as_deref().unwrap_or_default()) }
                @if let Some(to) = to { " → " bdi { (to) } }
                @if let Some(content) = content { bdi.content { (content) } }
            }
            td.outcome { span class=(verdict) { (outcome) } }
            td.number { (milliseconds(*took_ms)) }
            td.id { code.faint { (id) } }
        }
    }
}

fn counters(overview: &Overview) -> Markup {
    let callback = &overview.health.callback;
    let turned_away = callback.rejected.iter().filter(|(_, count)| **count > 0);
    let unanswered = callback.unanswered.iter().filter(|(_, count)| **count > 0);
    html! {
        table {
            tbody {
                @for (name, count) in overview.health.counters.iter().filter(|(_, count)| **count > 0) {
                    tr { th scope="row" { (name.replace('_', " ")) } td.number { (count) } }
                }
                @for (route, counts) in &overview.health.routes {
                    @for (what, count) in counts.iter().filter(|(_, count)| **count > 0) {
                        tr { th scope="row" { "route " (route) ": " (what.replace('_', " ")) } td.number { (count) } }
                    }
                }
                @for (reason, count) in turned_away {
                    tr { th scope="row" { "turned away: " (reason) } td.number { (count) } }
                }
                @for (cause, count) in unanswered {
                    tr { th scope="row" { "pushes unanswered: " (cause) } td.number { (count) } }
                }
            }
        }
    }
}

/// A moment; the page's script shows it in the time zone of whoever looks.
fn time(rfc3339: &str) -> Markup {
    let seconds = rfc3339.split('.').next().unwrap_or(rfc3339).replace('T', " ");
    html! { time datetime=(rfc3339) { (seconds) " UTC" } }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn milliseconds(ms: u64) -> String {
    if ms < 10_000 { format!("{ms} ms") } else { duration(Duration::from_millis(ms).as_secs()) }
}

fn size(bytes: u64) -> String {
    let of = |unit: u64| {
        let tenths = bytes.saturating_mul(10) / unit;
        if tenths < 100 { format!("{}.{}", tenths / 10, tenths % 10) } else { (tenths / 10).to_string() }
    };
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{} KiB", of(1024)),
        1_048_576..1_073_741_824 => format!("{} MiB", of(1024 * 1024)),
        _ => format!("{} GiB", of(1024 * 1024 * 1024)),
    }
}

/// A bar's width with its gap, and the height, in the drawing's own units.
const STEP: usize = 5;
const HEIGHT: u64 = 48;

/// Counts for each minute, under a caption.
fn plot(caption: &str, class: &str, counts: &[u64]) -> Markup {
    let most = counts.iter().copied().max().unwrap_or_default();
    let (all, now) = (counts.iter().sum::<u64>(), counts.last().copied().unwrap_or_default());
    let width = counts.len() * STEP;
    let figures = format!("now {now}, at most {most}, {all} in an hour");
    html! {
        figure {
            figcaption { strong { (caption) } span.faint { (figures) } }
            svg viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label={ (caption) ": " (figures) } {
                @for (n, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                    @let height = bar(*count, most);
                    rect class=(class) x=(n * STEP) y=(HEIGHT - height) width=(STEP - 1) height=(height) {}
                }
            }
            div.axis { span { "1 h ago" } span { "now" } }
        }
    }
}

/// A bar's height; what is there is seen, however little it is.
fn bar(count: u64, most: u64) -> u64 {
    let share = u128::from(count) * u128::from(HEIGHT) / u128::from(most.max(1));
    u64::try_from(share).unwrap_or(HEIGHT).clamp(2, HEIGHT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_to_scale_and_none_is_invisible_or_too_high() {
        assert_eq!([bar(1, 1), bar(1, 2), bar(1, 1_000_000), bar(u64::MAX, u64::MAX)], [48, 24, 2, 48]);
        let drawn = plot("a<b", "in", &[0, 1, 2]).into_string();
        assert_eq!(drawn.matches("<rect").count(), 2);
        assert!(drawn.contains("a&lt;b") && drawn.contains("now 2, at most 2, 3 in an hour"), "{drawn}");
    }
}
