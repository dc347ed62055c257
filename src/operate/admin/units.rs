//! Times, durations, sizes and plots as the status page shows them.

use std::time::Duration;

use maud::{Markup, html};

use super::language::Language;

/// A moment; the page's script shows it in the time zone of whoever looks.
pub(super) fn time(rfc3339: &str) -> Markup {
    html! { time datetime=(rfc3339) { (seconds(rfc3339)) " UTC" } }
}

/// The same without its seconds, in a sentence.
pub(super) fn moment(rfc3339: &str) -> Markup {
    let seconds = seconds(rfc3339);
    let minutes = seconds.rsplit_once(':').map_or(&*seconds, |(minutes, _)| minutes);
    html! { time data-short datetime=(rfc3339) { (minutes) " UTC" } }
}

fn seconds(rfc3339: &str) -> String {
    rfc3339.split('.').next().unwrap_or(rfc3339).replace('T', " ")
}

pub(super) fn duration(seconds: u64, language: Language) -> String {
    let (n, unit) = match seconds {
        0..120 => (seconds, language.say("s", "秒")),
        120..7200 => (seconds / 60, language.say("min", "分钟")),
        7200..172_800 => (seconds / 3600, language.say("h", "小时")),
        _ => (seconds / 86_400, language.say("d", "天")),
    };
    format!("{n} {unit}")
}

pub(super) fn milliseconds(ms: u64, language: Language) -> String {
    if ms < 10_000 {
        format!("{ms} {}", language.say("ms", "毫秒"))
    } else {
        duration(Duration::from_millis(ms).as_secs(), language)
    }
}

pub(super) fn size(bytes: u64) -> String {
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
pub(super) fn plot(caption: &str, class: &str, counts: &[u64], language: Language) -> Markup {
    let most = counts.iter().copied().max().unwrap_or_default();
    let (all, now) = (counts.iter().sum::<u64>(), counts.last().copied().unwrap_or_default());
    let width = counts.len() * STEP;
    let figures = match language {
        Language::English => format!("now {now}, at most {most}, {all} in an hour"),
        Language::Chinese => format!("当前 {now}，最多 {most}，一小时共 {all}"),
    };
    html! {
        figure {
            figcaption { strong { (caption) } span.faint { (figures) } }
            svg viewBox={ "0 0 " (width) " " (HEIGHT) } preserveAspectRatio="none" role="img" aria-label={ (caption) ": " (figures) } {
                @for (n, count) in counts.iter().enumerate().filter(|(_, count)| **count > 0) {
                    @let height = bar(*count, most);
                    rect class=(class) x=(n * STEP) y=(HEIGHT - height) width=(STEP - 1) height=(height) {}
                }
            }
            div.axis { span { (language.say("1 h ago", "1 小时前")) } span { (language.say("now", "现在")) } }
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
        let drawn = plot("a<b", "in", &[0, 1, 2], Language::English).into_string();
        assert_eq!(drawn.matches("<rect").count(), 2);
        assert!(drawn.contains("a&lt;b") && drawn.contains("now 2, at most 2, 3 in an hour"), "{drawn}");
    }

    #[test]
    fn a_moment_in_a_sentence_has_no_seconds() {
        let shown = moment("2026-01-02T18:13:05.678Z").into_string();
        assert!(shown.ends_with(">2026-01-02 18:13 UTC</time>"), "{shown}");
        assert!(time("2026-01-02T18:13:05.678Z").into_string().contains(">2026-01-02 18:13:05 UTC<"));
    }
}
