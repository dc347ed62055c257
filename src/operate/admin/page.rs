//! The status page: one embedded file with placeholders, filled here section by section.
//!
//! `maud` escapes every value. A section's HTML is the same whether it comes with the page or later as an event. Style and
//! script are allowed by their digests alone, so nothing else would run even if a value got through unescaped.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};
use secrecy::SecretString;
use sha2::{Digest, Sha256};

use super::counted::name_of;
use super::forms;
use super::headline::{advice, problems};
use super::language::Language;
use super::units::{duration, milliseconds, plot, size, time};
use crate::observe::activity::{Passed, Verdict, Way};
use crate::operate::set_aside::{Entry, Publish};
use crate::operate::status::{ClusterView, Overview, Part, Role};

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
pub(super) fn page(overview: &Overview, word: Option<&SecretString>, language: Language) -> String {
    let mut places = Vec::from(sections(overview, word, language));
    let as_of = language.say("as of", "截至");
    let now = html! { (as_of) " " (time(&overview.health.time)) };
    places.extend(fixed(language).map(|(id, text)| (id, text.to_owned())));
    places.extend([
        ("title", html! { "ilink2mqtt " (overview.info.uid) }.into_string()),
        ("header", header(overview, language).into_string()),
        ("now", now.into_string()),
    ]);
    fill(&places)
}

/// What the page itself says.
fn fixed(language: Language) -> [(&'static str, &'static str); 10] {
    [
        ("lang", language.tag()),
        ("live", language.say("live", "实时")),
        // The script puts the time into it.
        ("lost", language.say("not live since {}", "自 {} 起未更新")),
        ("connections", language.say("Connections", "连接")),
        ("minutes", language.say("Messages a minute", "每分钟消息数")),
        ("waiting", language.say("Queues", "队列")),
        ("last", language.say("Last messages", "最近的消息")),
        ("counted", language.say("Counted since the start", "启动以来的计数")),
        ("programs", language.say("The same for programs: ", "供程序使用：")),
        ("terminal", language.say("; in a terminal: ", "；在终端里：")),
    ]
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
pub(super) fn sections(overview: &Overview, word: Option<&SecretString>, language: Language) -> [Section; SECTIONS] {
    [
        ("problems", problems(overview, language)),
        ("parts", parts(overview, language)),
        ("rates", rates(overview, language)),
        ("queues", queues(overview, language)),
        ("advice", advice(&overview.problems, language)),
        ("set_aside", set_aside(overview, word, language)),
        ("messages", messages(&overview.messages, language)),
        ("counters", counters(overview, language)),
    ]
    .map(|(id, markup)| (id, markup.into_string()))
}

fn header(overview: &Overview, language: Language) -> Markup {
    let info = &overview.info;
    html! {
        p { "uid " (info.uid) " · " (info.version) " · " (since(&info.started_at, language, "running since", "运行")) }
    }
}

/// "connected since 18:13", or the like.
fn since(at: &str, language: Language, english: &str, chinese: &str) -> Markup {
    html! {
        @match language {
            Language::English => { (english) " " (time(at)) }
            Language::Chinese => { "自 " (time(at)) " 起" (chinese) }
        }
    }
}

fn parts(overview: &Overview, language: Language) -> Markup {
    let (health, ready) = (&overview.health, &overview.ready);
    let say = |english, chinese| language.say(english, chinese);
    let since = |at: &str| html! { " " small { (since(at, language, "since", "")) } };
    let part = |name: &str, part: &Part, good: &str, bad: &str| {
        html! { dt { (name) } dd { (state(part.ready, if part.ready { good } else { bad })) (since(&part.since)) } }
    };
    let not_stored = match ready.spool.kind {
        Some("full") => say("full", "已满"),
        Some("failed") => say("failed", "已失效"),
        _ => say("not writable", "无法写入"),
    };
    let last = |name: &str, at: Option<&String>| {
        let never = say("not in this run", "本次运行中没有");
        html! { dt { (name) } dd { @match at { Some(at) => (time(at)), None => span.faint { (never) } } } }
    };
    html! {
        dl {
            @if let Some(cluster) = &overview.cluster {
                dt { (say("Cluster", "集群")) }
                dd { (state(cluster.health.leader.is_some(), &cluster_line(cluster, language))) }
            }
            dt { "iLink" }
            dd { (state(health.cloud.state == "online", cloud(health.cloud.state, language))) (since(&health.cloud.since)) }
            @for closed in &health.cloud.closed {
                dt { code { (closed.endpoint) } } dd { (state(false, &closed.cause)) (since(&closed.since)) }
            }
            (part(say("Broker", "Broker"), &ready.broker, say("connected", "已连接"), say("not connected", "未连接")))
            (part(say("Subscriptions", "订阅"), &ready.subscriptions, say("granted", "已批准"), say("not granted", "未批准")))
            (part(say("Callback", "回调"), &ready.callback, say("registered", "已注册"), say("not registered", "未注册")))
            (part(say("Spool", "存储"), &ready.spool, say("writable", "可写入"), not_stored))
            (last(say("Last push", "最近的推送"), health.callback.last_push_at.as_ref()))
            (last(say("Last handshake", "最近的握手"), health.callback.last_get_at.as_ref()))
            @if let Some(left) = health.token_expires_in_s {
                dt { (say("Access token", "访问令牌")) }
                dd { (say("for another ", "还有效 ")) (duration(left, language)) }
            }
        }
    }
}

fn cloud(state: &'static str, language: Language) -> &'static str {
    let chinese = match state {
        "online" => "在线",
        "degraded" => "部分可用",
        "auth_error" => "被拒绝",
        "unregistered" => "未注册",
        _ => "离线",
    };
    language.say(state, chinese)
}

fn cluster_line(cluster: &ClusterView, language: Language) -> String {
    if language == Language::English {
        return cluster.line();
    }
    let health = &cluster.health;
    let leader = health.leader.as_deref().map_or_else(|| "没有主成员".to_owned(), |leader| format!("主成员：{leader}"));
    let role = |role| if role == Role::Leader { "主成员" } else { "待命" };
    let members = health.members.iter().map(|member| format!("{}（{}）", member.name, role(member.role)));
    let members = members.collect::<Vec<_>>().join("、");
    let members = if members.is_empty() { "未知" } else { &members };
    let (me, healthy, of) = (&cluster.member, health.etcd.healthy, health.etcd.of);
    format!("{leader}；本成员：{me}；全部成员：{members}；etcd：{of} 个中有 {healthy} 个应答")
}

fn state(good: bool, text: &str) -> Markup {
    html! { span.dot.good[good].bad[!good] { (text) } }
}

fn rates(overview: &Overview, language: Language) -> Markup {
    let from: Vec<u64> = overview.minutes.iter().map(|minute| minute.from_ilink).collect();
    let to: Vec<u64> = overview.minutes.iter().map(|minute| minute.to_ilink).collect();
    html! {
        (plot(language.say("From iLink", "来自 iLink"), "in", &from, language))
        (plot(language.say("To iLink", "发往 iLink"), "out", &to, language))
    }
}

fn queues(overview: &Overview, language: Language) -> Markup {
    let queues = &overview.health.queues;
    let say = |english, chinese| language.say(english, chinese);
    html! {
        table {
            thead { tr {
                th { "" }
                th.number { (say("waiting", "等待")) } th.number { (say("oldest", "最早")) } th.number { (say("size", "大小")) }
            } }
            tbody {
                @for (name, queue, limit) in [
                    (say("from iLink", "来自 iLink"), &queues.inbound, Some(overview.queue_limit)),
                    (say("to iLink", "发往 iLink"), &queues.outbound, Some(overview.queue_limit)),
                    (say("set aside", "已搁置"), &queues.set_aside, None),
                ] {
                    tr {
                        th scope="row" { (name) }
                        td.number { (queue.depth) }
                        td.number { @if let Some(age) = queue.oldest_s { (duration(age, language)) } @else { "–" } }
                        td.number {
                            (size(queue.bytes))
                            @if let Some(limit) = limit {
                                " " small { (say("of ", "/ ")) (size(limit)) }
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
fn set_aside(overview: &Overview, word: Option<&SecretString>, language: Language) -> Markup {
    let depth = overview.health.queues.set_aside.depth;
    let shown = overview.set_aside.len() as u64;
    html! {
        @if depth > 0 {
            section {
                h2 { (language.say("Set aside", "已搁置")) }
                p.faint {
                    (language.say(
                        "The broker refused these for good. When the cause is gone, they can be sent again.",
                        "这些消息被 broker 永久拒收。原因消除后可以重新发送。"
                    ))
                    @if shown != depth {
                        @match language {
                            Language::English => { " The oldest " (shown) " of " (depth) ":" }
                            Language::Chinese => { "共 " (depth) " 条，以下是最早的 " (shown) " 条：" }
                        }
                    }
                }
                @if let Some(word) = word {
                    @let ids = overview.set_aside.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>();
                    (forms::of_all(word, &ids, shown == depth, language))
                }
                ul { @for entry in &overview.set_aside { (entry_item(entry, word, language)) } }
            }
        }
    }
}

fn entry_item(entry: &Entry, word: Option<&SecretString>, language: Language) -> Markup {
    let Entry { id, kind, at, from, refused, content } = entry;
    html! {
        li {
            strong { (kind) @if let Some(from) = from { (language.say(" from ", "，来自 ")) bdi { (from) } } }
            " " small.faint { (time(at)) " " code { (id) } }
            @if let Some(content) = content { bdi.content { (content) } }
            @for Publish { topic, bytes, why } in refused {
                p { bdi { (topic) } (language.say(", ", "，")) (size(*bytes)) (language.say(": ", "：")) span lang="en" { (why) } }
            }
            @if let Some(word) = word { (forms::of_one(word, id, language)) }
        }
    }
}

fn messages(messages: &[Passed], language: Language) -> Markup {
    let say = |english, chinese| language.say(english, chinese);
    html! {
        @if messages.is_empty() {
            p.faint { (say("None in this run.", "本次运行中还没有。")) }
        } @else {
            table {
                thead { tr {
                    th { (say("Time", "时间")) } th { (say("Kind", "类型")) } th.number { (say("Size", "大小")) }
                    th { (say("From, to", "发送方、接收方")) } th { (say("Outcome", "结果")) }
                    th.number { (say("Took", "用时")) } th { "Id" }
                } }
                tbody { @for message in messages { (row(message, language)) } }
            }
        }
    }
}

fn row(message: &Passed, language: Language) -> Markup {
    let Passed { at, way, kind, id, from, to, bytes, verdict, outcome, took_ms, content } = message;
    let (arrow, class, whither) = match way {
        Way::FromIlink => ("↓", "way in", language.say("from iLink", "来自 iLink")),
        Way::ToIlink => ("↑", "way out", language.say("to iLink", "发往 iLink")),
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
            td.outcome { span class=(verdict) { (outcome_in(outcome, language)) } }
            td.number { (milliseconds(*took_ms, language)) }
            td.id { code.faint { (id) } }
        }
    }
}

/// What became of a message. The names of results are the same in every language.
fn outcome_in(outcome: &str, language: Language) -> &str {
    if language == Language::English {
        return outcome;
    }
    match outcome {
        "delivered" => "已送达",
        "too late: only as an event" => "太迟：仅作为事件发布",
        "not in inbound.allow_from: only as an event" => "不在 inbound.allow_from 中：仅作为事件发布",
        "older than the last one: only as an event" => "早于上一条：仅作为事件发布",
        "refused by the broker: set aside" => "被 broker 拒收：已搁置",
        "too old for its route: not sent" => "对路由来说太旧：未发送",
        other => other,
    }
}

fn counters(overview: &Overview, language: Language) -> Markup {
    let health = &overview.health;
    let callback = &health.callback;
    let say = |english, chinese| language.say(english, chinese);
    let of_routes = health.routes.iter().flat_map(|(route, counts)| {
        let prefix = format!("{}{route}{}", say("route ", "路由 "), say(": ", "："));
        counts.iter().map(move |(name, count)| (prefix.clone(), *name, *count))
    });
    let all = health.counters.iter().map(|(name, count)| (String::new(), *name, *count));
    let turned_away =
        callback.rejected.iter().map(|(why, n)| (say("turned away: ", "拒绝请求：").to_owned(), *why, *n));
    let unanswered =
        callback.unanswered.iter().map(|(why, n)| (say("pushes unanswered: ", "未应答的推送：").to_owned(), *why, *n));
    let counted = all.chain(of_routes).chain(turned_away).chain(unanswered).filter(|(_, _, count)| *count > 0);
    html! {
        table {
            tbody {
                @for (prefix, name, count) in counted {
                    tr { th scope="row" { (prefix) (name_of(name, language)) } td.number { (count) } }
                }
            }
        }
    }
}
