//! The groups and who is in them (§5.4–§5.9).

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Value, json};

use super::refusal::{FORBIDDEN, INVALID_OPERATION, NO_SUCH_GROUP};
use crate::protocol::{GroupId, ResultCode, Uid};

/// In the order of their creation.
#[derive(Default, Serialize)]
#[serde(transparent)]
pub(super) struct Groups(Vec<Group>);

#[derive(Serialize)]
struct Group {
    #[serde(rename = "group_id")]
    id: GroupId,
    #[serde(rename = "group_name")]
    name: String,
    owner: Uid,
    /// The owner included.
    members: BTreeSet<Uid>,
    #[serde(rename = "create_time")]
    created: String,
}

impl Groups {
    pub(super) fn create(&mut self, id: GroupId, name: &str, owner: Uid, others: Vec<Uid>, created: String) {
        let members = others.into_iter().chain([owner.clone()]).collect();
        self.0.push(Group { id, name: name.to_owned(), owner, members, created });
    }

    pub(super) fn delete(&mut self, id: &GroupId, by: &Uid) -> Result<(), ResultCode> {
        self.owned(id, by)?;
        self.0.retain(|group| group.id != *id);
        Ok(())
    }

    /// The groups `uid` is in, as §5.6 lists them.
    pub(super) fn list(&self, uid: &Uid) -> Value {
        let mine = self.0.iter().filter(|group| group.members.contains(uid));
        mine.map(|group| json!({"group_id": group.id, "group_name": group.name, "create_time": group.created}))
            .collect()
    }

    pub(super) fn add(&mut self, id: &GroupId, by: &Uid, uids: Vec<Uid>) -> Result<(), ResultCode> {
        self.owned(id, by)?.members.extend(uids);
        Ok(())
    }

    pub(super) fn remove(&mut self, id: &GroupId, by: &Uid, uids: &[Uid]) -> Result<(), ResultCode> {
        let group = self.find(id)?;
        let leaves = group.members.contains(by) && uids.iter().all(|uid| uid == by);
        if group.owner != *by && !leaves {
            return Err(FORBIDDEN);
        }
        if uids.contains(&group.owner) {
            return Err(INVALID_OPERATION);
        }
        group.members.retain(|member| !uids.contains(member));
        Ok(())
    }

    /// Everybody in the group but `uid`, who must be in it.
    pub(super) fn others(&mut self, id: &GroupId, uid: &Uid) -> Result<Vec<Uid>, ResultCode> {
        let group = self.find(id)?;
        if !group.members.contains(uid) {
            return Err(FORBIDDEN);
        }
        Ok(group.members.iter().filter(|member| *member != uid).cloned().collect())
    }

    fn find(&mut self, id: &GroupId) -> Result<&mut Group, ResultCode> {
        self.0.iter_mut().find(|group| group.id == *id).ok_or(NO_SUCH_GROUP)
    }

    fn owned(&mut self, id: &GroupId, by: &Uid) -> Result<&mut Group, ResultCode> {
        let group = self.find(id)?;
        if group.owner == *by { Ok(group) } else { Err(FORBIDDEN) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uid(text: &str) -> Uid {
        text.parse().unwrap()
    }

    #[test]
    fn the_owner_rules_and_a_member_may_leave() {
        let mut groups = Groups::default();
        let id: GroupId = "g".parse().unwrap();
        let (owner, member, stranger) = (uid("1"), uid("2"), uid("3"));
        groups.create(id.clone(), "聊天群", owner.clone(), vec![member.clone()], String::new());
        assert_eq!(groups.others(&id, &owner), Ok(vec![member.clone()]));
        assert_eq!(groups.others(&id, &stranger), Err(FORBIDDEN));
        assert_eq!(groups.add(&id, &member, vec![stranger.clone()]), Err(FORBIDDEN));
        assert_eq!(groups.remove(&id, &stranger, std::slice::from_ref(&stranger)), Err(FORBIDDEN));
        assert_eq!(groups.remove(&id, &owner, std::slice::from_ref(&owner)), Err(INVALID_OPERATION));
        assert_eq!(groups.remove(&id, &member, std::slice::from_ref(&member)), Ok(()));
        assert_eq!(groups.others(&id, &owner), Ok(vec![]));
        assert_eq!(groups.delete(&id, &member), Err(FORBIDDEN));
        assert_eq!(groups.delete(&id, &owner), Ok(()));
        assert_eq!(groups.delete(&id, &owner), Err(NO_SUCH_GROUP));
    }
}
