//! The page's headline: what is wrong, since when, and what that means for messages, in one sentence; below it causes and
//! remedies, in the words of the log. If nothing is wrong it says so, and advice stands elsewhere.

use maud::{Markup, html};

use super::language::Language;
use super::units::{moment, time};
use crate::operate::status::{Condition, Overview, Problem, Role, Weight};

/// So many causes are told in one sentence.
const CAUSES: usize = 3;

/// A condition in both languages, English first. In causes `{since}` stands for the time; in meanings `{pushes}`, `{held}`,
/// `{commands}` and `{kept}` for what waits, what the broker does not take for now, and what is set aside.
struct Sentence {
    cause: [&'static str; 2],
    meaning: [&'static str; 2],
}

const fn said(en: &'static str, zh: &'static str, means_en: &'static str, means_zh: &'static str) -> Sentence {
    Sentence { cause: [en, zh], meaning: [means_en, means_zh] }
}

/// The sentences. Advice has none.
#[rustfmt::skip]
const fn sentence(condition: Condition) -> Option<Sentence> {
    use Condition as Is;
    Some(match condition {
        Is::AwaitsEtcd => said(
            "this member has not begun: it has been waiting for etcd{since}", "本成员{since}一直在等待 etcd，尚未开始工作",
            "pushes are not answered here: unless another member takes them, they are lost after iLink's third try, and commands stay \
             at the broker until the bridge's session there expires",
            "这里不应答推送：如果没有其他成员接手，推送会在 iLink 第三次尝试后丢失；命令留在 broker，直到网桥在那里的会话过期",
        ),
        Is::NoEtcd => said(
            "the cluster cannot use etcd{since}", "{since}集群无法使用 etcd",
            "new messages are not accepted: iLink tries each three times, then it is lost",
            "新消息无法接收：每条消息 iLink 只尝试三次，之后就会丢失",
        ),
        Is::BrokerNotYet => said("the broker is not connected yet", "尚未连接到 broker", "{pushes}", "{pushes}"),
        Is::BrokerUnreachable => said("the broker is unreachable{since}", "{since}连不上 broker", "{pushes}", "{pushes}"),
        Is::BrokerTurnsAway => said(
            "the broker does not let the bridge in{since}", "{since} broker 拒绝网桥的连接", "{pushes}", "{pushes}",
        ),
        Is::BaseTopicTaken => said(
            "another account uses the same base topic{since}", "{since}另一个账号占用了同一个基础主题", "{pushes}", "{pushes}",
        ),
        Is::CommandsNotYet => said(
            "the broker has not granted the subscriptions yet{since}", "{since} broker 尚未批准订阅",
            "commands do not reach the bridge yet", "命令暂时到不了网桥",
        ),
        Is::CommandsDenied => said(
            "the broker does not pass commands on to the bridge{since}", "{since} broker 不把命令转给网桥",
            "commands do not reach iLink, messages from iLink do arrive", "命令到不了 iLink，来自 iLink 的消息照常送达",
        ),
        Is::InboundFull => said(
            "the queue from iLink is full{since}", "{since}来自 iLink 的队列已满",
            "new messages are not accepted: iLink tries each three times, then it is lost",
            "新消息无法接收：每条消息 iLink 只尝试三次，之后就会丢失",
        ),
        Is::OutboundFull => said(
            "the queue to iLink is full{since}", "{since}发往 iLink 的队列已满",
            "new commands are refused, and their senders are told", "新命令会被拒绝，并通知发送方",
        ),
        Is::StoreRefuses => said(
            "nothing can be stored{since}", "{since}无法保存任何消息",
            "new messages are not accepted: iLink tries each three times, then it is lost",
            "新消息无法接收：每条消息 iLink 只尝试三次，之后就会丢失",
        ),
        Is::StoreFailed => said(
            "the store has failed{since}", "{since}存储已失效",
            "nothing is accepted any more; a restart goes on with what is stored",
            "不再接收任何消息；重启后会继续处理已保存的消息",
        ),
        Is::IlinkUnreachable => said(
            "iLink is unreachable{since}", "{since}连不上 iLink",
            "{commands}; what iLink cannot deliver here meanwhile is lost",
            "{commands}；期间 iLink 送不到网桥的消息会丢失",
        ),
        Is::IlinkDegraded => said("iLink works only in part{since}", "{since} iLink 只有部分功能可用", "{commands}", "{commands}"),
        Is::IlinkRefuses => said("iLink refuses the bridge{since}", "{since} iLink 拒绝网桥", "{commands}", "{commands}"),
        Is::IlinkUnregistered => said(
            "the bridge is not registered at iLink{since}", "{since}网桥未在 iLink 注册", "{commands}", "{commands}",
        ),
        Is::CallbackMissing => said(
            "iLink does not know the callback{since}", "{since}回调未在 iLink 注册",
            "messages from iLink do not arrive", "收不到来自 iLink 的消息",
        ),
        Is::PublishesRefused => said(
            "the broker refuses publishes for good{since}", "{since} broker 永久拒收一些发布", "{kept}", "{kept}",
        ),
        Is::BrokerBusy => said("the broker is busy{since}", "{since} broker 繁忙", "{held}", "{held}"),
        Is::BrokerRefusesForNow => said(
            "the broker refuses messages for now{since}", "{since} broker 暂时拒收一些消息", "{held}", "{held}",
        ),
        Is::BrokerCutsOff => said(
            "the broker ends the connection at a message{since}", "{since} broker 一收到某条消息就断开连接", "{held}", "{held}",
        ),
        Is::InboundNearlyFull => said(
            "the queue from iLink is nearly full", "来自 iLink 的队列快满了",
            "when it is full, new messages may be lost", "满了以后，新消息可能丢失",
        ),
        Is::OutboundNearlyFull => said(
            "the queue to iLink is nearly full", "发往 iLink 的队列快满了",
            "when it is full, new commands are refused", "满了以后，新命令会被拒绝",
        ),
        Is::SetAside => said("the broker has refused messages for good", "有消息被 broker 永久拒收", "{kept}", "{kept}"),
        Is::IlinkRemark | Is::Unverified | Is::Configuration => return None,
    })
}

/// Whether messages may be lost meanwhile.
const fn loses(condition: Condition) -> bool {
    use Condition as Is;
    matches!(
        condition,
        Is::AwaitsEtcd | Is::NoEtcd | Is::InboundFull | Is::StoreRefuses | Is::StoreFailed | Is::IlinkUnreachable
    )
}

/// What the sentences count.
struct Facts {
    pushes: u64,
    held: u64,
    commands: u64,
    kept: u64,
    loses: bool,
    registered: bool,
}

impl Facts {
    fn of(overview: &Overview, told: &[&Problem]) -> Self {
        let health = &overview.health;
        Self {
            pushes: health.queues.inbound.depth,
            held: health.broker.busy.iter().map(|busy| busy.messages as u64).sum(),
            commands: health.queues.outbound.depth,
            kept: health.queues.set_aside.depth,
            loses: told.iter().any(|problem| loses(problem.condition)),
            registered: overview.ready.callback.ready,
        }
    }

    fn filled(&self, meaning: &str, language: Language) -> String {
        let waits = |n: u64| waits(n, self.loses, language);
        meaning
            .replace("{pushes}", &waits(self.pushes))
            .replace("{held}", &waits(self.held))
            .replace("{commands}", &commands(self.commands, language))
            .replace("{kept}", &kept(self.kept, language))
    }
}

fn waits(n: u64, loses: bool, language: Language) -> String {
    let number = match (language, n) {
        (Language::English, 0) => "no message waits".to_owned(),
        (Language::English, 1) => "1 message waits".to_owned(),
        (Language::English, n) => format!("{n} messages wait"),
        (Language::Chinese, 0) => "没有消息在等待".to_owned(),
        (Language::Chinese, n) => format!("{n} 条消息在等待"),
    };
    let safe = language.say(", none is lost", if n == 0 { "，也没有丢失" } else { "，没有丢失" });
    if loses { number } else { number + safe }
}

fn commands(n: u64, language: Language) -> String {
    match (language, n) {
        (Language::English, 0) => "no command waits".to_owned(),
        (Language::English, 1) => "1 command waits until it is sent or expires".to_owned(),
        (Language::English, n) => format!("{n} commands wait until they are sent or expire"),
        (Language::Chinese, 0) => "没有命令在等待".to_owned(),
        (Language::Chinese, n) => format!("{n} 条命令在等待，直到发出或过期"),
    }
}

fn kept(n: u64, language: Language) -> String {
    match (language, n) {
        (Language::English, 0) => "no message is set aside".to_owned(),
        (Language::English, 1) => "1 message is set aside and can be sent again".to_owned(),
        (Language::English, n) => format!("{n} messages are set aside and can be sent again"),
        (Language::Chinese, 0) => "没有消息被搁置".to_owned(),
        (Language::Chinese, n) => format!("{n} 条消息已搁置，可以重新发送"),
    }
}

/// The headline, with the cause and the remedy of each problem that it speaks of.
pub(super) fn problems(overview: &Overview, language: Language) -> Markup {
    let of = |weight: Weight| of_weight(&overview.problems, |each| each == weight);
    let (grave, odd) = (of(Weight::Grave), of(Weight::Odd));
    let (class, told) = if grave.is_empty() { ("odd", odd) } else { ("bad", grave) };
    html! {
        @if told.is_empty() {
            p { (well(overview, language)) }
        } @else {
            p class=(class) { (headline(&told, &Facts::of(overview, &told), language)) }
            (list(&told, language))
        }
    }
}

/// What is no trouble stands apart from it; so does what can wait while there is worse.
pub(super) fn advice(problems: &[Problem], language: Language) -> Markup {
    let is_grave = problems.iter().any(|problem| problem.grave);
    let mut advice = of_weight(problems, |weight| weight == Weight::Advice || (weight == Weight::Odd && is_grave));
    // That has a section of its own.
    advice.retain(|problem| problem.condition != Condition::SetAside);
    html! {
        @if !advice.is_empty() { section { h2 { (language.say("Advice", "建议")) } (list(&advice, language)) } }
    }
}

fn of_weight(problems: &[Problem], is_wanted: impl Fn(Weight) -> bool) -> Vec<&Problem> {
    problems.iter().filter(|problem| is_wanted(problem.condition.weight())).collect()
}

fn well(overview: &Overview, language: Language) -> Markup {
    let well = language.say("All is well", "一切正常");
    let Some(cluster) = overview.cluster.as_ref().filter(|_| overview.ready.role == Some(Role::Standby)) else {
        return html! { (well) };
    };
    html! {
        (well) (language.say(": this member stands by", "：本成员待命"))
        @if let Some(leader) = &cluster.health.leader {
            @match language {
                Language::English => { ", and " bdi { (leader) } " leads" }
                Language::Chinese => { "，" bdi { (leader) } " 是主成员" }
            }
        }
    }
}

/// One sentence for all of them.
fn headline(told: &[&Problem], facts: &Facts, language: Language) -> Markup {
    let mut conditions: Vec<(Condition, Option<&str>)> = Vec::new();
    for problem in told {
        let since = problem.since.as_deref();
        match conditions.iter_mut().find(|(condition, _)| *condition == problem.condition) {
            // Times of this form sort as text does.
            Some((_, earliest)) => *earliest = (*earliest).min(since),
            None => conditions.push((problem.condition, since)),
        }
    }
    let meanings = meanings(conditions.iter().map(|(condition, _)| *condition).collect(), facts, language);
    let (shown, more) = (conditions.len().min(CAUSES), conditions.len().saturating_sub(CAUSES));
    html! {
        @for (n, (condition, since)) in conditions.iter().take(CAUSES).enumerate() {
            @if n > 0 { (language.say(if n + 1 == shown && more == 0 { ", and " } else { ", " }, "，")) }
            (cause(*condition, *since, n == 0, language))
        }
        @if more > 0 {
            @match language {
                Language::English => { ", and " (more) " more" }
                Language::Chinese => { "，另有 " (more) " 个问题" }
            }
        }
        @for meaning in meanings { (language.say("; ", "；")) (meaning) }
    }
}

/// What it all means for messages, each once.
fn meanings(mut all: Vec<Condition>, facts: &Facts, language: Language) -> Vec<String> {
    // That the callback is missing is no problem of its own if it has the cause of iLink's state.
    let of_ilink = |condition: &Condition| {
        matches!(condition, Condition::IlinkDegraded | Condition::IlinkRefuses | Condition::IlinkUnregistered)
    };
    if !facts.registered && all.iter().any(of_ilink) {
        all.push(Condition::CallbackMissing);
    }
    let mut meanings = Vec::new();
    for Sentence { meaning: [english, chinese], .. } in all.into_iter().filter_map(sentence) {
        let meaning = facts.filled(language.say(english, chinese), language);
        if !meanings.contains(&meaning) {
            meanings.push(meaning);
        }
    }
    meanings
}

fn cause(condition: Condition, since: Option<&str>, first: bool, language: Language) -> Markup {
    let Some(Sentence { cause: [english, chinese], .. }) = sentence(condition) else { return html! {} };
    let text = language.say(english, chinese);
    let (before, after) = text.split_once("{since}").unwrap_or((text, ""));
    let before = if first { capital(before) } else { before.to_owned() };
    html! {
        (before)
        @match (since, language) {
            (Some(since), Language::English) => { " since " (moment(since)) }
            (Some(since), Language::Chinese) => { "自 " (moment(since)) " 起" }
            (None, _) => {}
        }
        (if since.is_some() { after } else { after.trim_start() })
    }
}

/// As a sentence begins.
fn capital(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if !text.starts_with("iLink") => first.to_uppercase().chain(chars).collect(),
        _ => text.to_owned(),
    }
}

fn list(problems: &[&Problem], language: Language) -> Markup {
    html! {
        ul {
            @for problem in problems {
                li {
                    strong {
                        (part(problem, language))
                        @if let Some(since) = &problem.since {
                            small.faint {
                                @match language {
                                    Language::English => { " since " (time(since)) }
                                    Language::Chinese => { " 自 " (time(since)) " 起" }
                                }
                            }
                        }
                    }
                    // The words of the log, which stay English: they can be searched for.
                    span lang="en" { (problem.cause) }
                }
            }
        }
    }
}

/// What a problem is about.
fn part(problem: &Problem, language: Language) -> Markup {
    use Condition as Is;
    let english = &problem.part;
    if language == Language::English {
        return html! { (english) };
    }
    let chinese = match problem.condition {
        Is::AwaitsEtcd | Is::NoEtcd => "集群",
        Is::BrokerNotYet | Is::BrokerUnreachable | Is::BrokerTurnsAway | Is::BaseTopicTaken => "broker",
        Is::CommandsNotYet | Is::CommandsDenied | Is::Unverified => "订阅",
        Is::InboundFull | Is::OutboundFull | Is::StoreRefuses | Is::StoreFailed => "存储",
        Is::IlinkUnreachable => "iLink 离线",
        Is::IlinkDegraded => "iLink 异常",
        Is::IlinkRefuses => "iLink 拒绝",
        Is::IlinkUnregistered => "iLink 未注册",
        Is::IlinkRemark => "iLink",
        Is::CallbackMissing => "回调",
        Is::PublishesRefused => {
            return html! { "发布到 " bdi { (english.strip_prefix("publishes to ").unwrap_or(english)) } };
        }
        Is::BrokerBusy => "broker 繁忙",
        Is::BrokerRefusesForNow => "broker 暂时拒收",
        Is::BrokerCutsOff => "broker 断开连接",
        Is::InboundNearlyFull => "来自 iLink 的队列",
        Is::OutboundNearlyFull => "发往 iLink 的队列",
        Is::SetAside => "已搁置",
        Is::Configuration => "配置",
    };
    html! { (chinese) }
}

#[cfg(test)]
mod tests;
