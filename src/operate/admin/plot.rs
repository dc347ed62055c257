//! A row of bars as SVG, the newest on the right.

use maud::{Markup, html};

/// A bar's width with its gap, and the height, in the drawing's own units.
const STEP: usize = 5;
const HEIGHT: u64 = 48;

/// Counts for each minute, under a caption.
pub(super) fn plot(caption: &str, class: &str, counts: &[u64]) -> Markup {
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
