//! Which file of `src/` imports which: a reader of `use` trees and of paths in code.
//!
//! A `mod` line is no import, nor is a re-export that the file itself does not use; a re-exported name leads to the file
//! that has it. Modules under `#[cfg(test)]` do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A path by module names, from the crate's root.
type Names = Vec<String>;

/// Of one file: what it says that leads elsewhere.
#[derive(Default)]
struct Source {
    /// Below `src/`.
    file: String,
    /// What `use` brings in: the name, and where it comes from. The last is a re-export.
    uses: Vec<(String, Names, bool)>,
    /// Paths in code as they are written, with the module that they stand in.
    paths: Vec<(Names, Names)>,
    /// Names in code.
    idents: BTreeSet<String>,
}

/// Every file imports these, each with the path that it says it by.
pub(super) type Imports = BTreeMap<String, BTreeMap<String, String>>;

/// The imports of all files below `src`.
pub(super) fn imports(src: &Path) -> Imports {
    let mut modules = BTreeMap::new();
    read(src, "lib.rs", &[], &mut modules);
    let mut all = Imports::new();
    for (module, source) in &modules {
        let mut found = BTreeMap::new();
        let mut add = |target: Option<Names>, said: &[String]| {
            if let Some(target) = target.filter(|target| *target != *module && modules[target].file != source.file) {
                found.entry(modules[&target].file.clone()).or_insert_with(|| said.join("::"));
            }
        };
        for (name, path, exported) in &source.uses {
            if !exported || source.idents.contains(name) {
                add(owner(&modules, path, 0), path);
            }
        }
        for (at, path) in &source.paths {
            if let Some(full) = absolute(&modules, at, path) {
                add(owner(&modules, &full, 0), path);
            }
        }
        if source.file != "lib.rs" {
            all.entry(source.file.clone()).or_default().extend(found);
        }
    }
    all
}

/// Reads the file of a module, and those of the modules in it.
fn read(src: &Path, file: &str, module: &[String], modules: &mut BTreeMap<Names, Source>) {
    let text = std::fs::read_to_string(src.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{file}: {error}"));
    modules.insert(module.to_vec(), Source { file: file.to_owned(), ..Source::default() });
    let mut children = Vec::new();
    walk(tokens, module, modules, &mut children);
    for child in children {
        let mut path = module.to_vec();
        path.push(child);
        let file = [format!("{}.rs", path.join("/")), format!("{}/mod.rs", path.join("/"))];
        let file = file.iter().find(|file| src.join(file).exists()).unwrap_or_else(|| panic!("no file for {path:?}"));
        read(src, file, &path, modules);
    }
}

/// The tokens of `module`, or of a block in it.
fn walk(tokens: TokenStream, module: &[String], modules: &mut BTreeMap<Names, Source>, children: &mut Vec<String>) {
    let tokens: Vec<TokenTree> = tokens.into_iter().collect();
    let ident = |at: usize| match tokens.get(at) {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    };
    let is = |at: usize, mark: char| matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == mark);
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Group(group)
                if at > 0 && is(at - 1, '#') && group.to_string().replace(' ', "") == "[cfg(test)]" =>
            {
                at = item_end(&tokens, at + 1);
            }
            TokenTree::Group(group) => walk(group.stream(), module, modules, children),
            TokenTree::Ident(word) if word == "mod" => {
                let name = ident(at + 1).expect("a module's name");
                match &tokens[at + 2] {
                    TokenTree::Group(body) => {
                        let mut inner = module.to_vec();
                        inner.push(name);
                        let file = modules[module].file.clone();
                        modules.insert(inner.clone(), Source { file, ..Source::default() });
                        walk(body.stream(), &inner, modules, &mut Vec::new());
                    }
                    _ => children.push(name),
                }
                at += 2;
            }
            TokenTree::Ident(word) if word == "use" && !is(at + 1, '<') => {
                let end = (at..tokens.len()).find(|end| is(*end, ';')).expect("the end of a use");
                let exported = match at.checked_sub(1).map(|before| &tokens[before]) {
                    Some(TokenTree::Ident(word)) => word == "pub",
                    // `pub(super)` and its like.
                    Some(TokenTree::Group(group)) => group.delimiter() == Delimiter::Parenthesis,
                    _ => false,
                };
                let mut names = Vec::new();
                tree(&tokens[at + 1..end], Vec::new(), &mut names);
                let uses = &mut modules.get_mut(module).expect("read").uses;
                uses.extend(names.into_iter().map(|(name, path)| (name, from(module, &path), exported)));
                at = end;
            }
            TokenTree::Ident(first) if at == 0 || !is(at - 1, '.') => {
                let mut path = vec![first.to_string()];
                while is(at + 1, ':') && is(at + 2, ':') {
                    let Some(next) = ident(at + 3) else { break };
                    path.push(next);
                    at += 3;
                }
                let source = modules.get_mut(module).expect("read");
                source.idents.insert(path[0].clone());
                if path.len() > 1 {
                    source.paths.push((module.to_vec(), path));
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// Where an item ends that begins at `at`.
fn item_end(tokens: &[TokenTree], at: usize) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        TokenTree::Punct(mark) => mark.as_char() == ';',
        _ => false,
    };
    (at..tokens.len()).find(|at| ends(&tokens[*at])).unwrap_or(tokens.len())
}

/// The names that a `use` tree brings in, each with its path as written.
fn tree(tokens: &[TokenTree], mut before: Names, names: &mut Vec<(String, Names)>) {
    let mut renamed = None;
    let mut at = 0;
    while at < tokens.len() {
        match &tokens[at] {
            TokenTree::Ident(word) if word == "as" => {
                renamed = Some(tokens[at + 1].to_string());
                at += 1;
            }
            TokenTree::Ident(word) => before.push(word.to_string()),
            TokenTree::Punct(mark) if mark.as_char() == '*' => before.push("*".to_owned()),
            TokenTree::Group(group) => {
                let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                for part in inner.split(|token| matches!(token, TokenTree::Punct(mark) if mark.as_char() == ',')) {
                    if !part.is_empty() {
                        tree(part, before.clone(), names);
                    }
                }
                return;
            }
            _ => {}
        }
        at += 1;
    }
    if before.last().is_some_and(|last| last == "self") && before.len() > 1 {
        before.pop();
    }
    names.push((renamed.unwrap_or_else(|| before.last().expect("a name").clone()), before));
}

/// A path of a `use` in `module`, from the root. What begins with no module of ours is told by [`owner`].
fn from(module: &[String], path: &[String]) -> Names {
    let mut base: Names = match path[0].as_str() {
        "crate" => Vec::new(),
        _ => module.to_vec(),
    };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => drop(base.pop()),
            name => base.push(name.to_owned()),
        }
    }
    base
}

/// A path in code, from the root; `None` when it begins with something that is no module and was not brought in.
fn absolute(modules: &BTreeMap<Names, Source>, at: &[String], path: &[String]) -> Option<Names> {
    let full = from(at, path);
    if ["crate", "self", "super"].contains(&path[0].as_str()) {
        return Some(full);
    }
    let mut child = at.to_vec();
    child.push(path[0].clone());
    (modules.contains_key(&child) || modules[at].uses.iter().any(|(name, ..)| *name == path[0])).then_some(full)
}

/// The module that has what `path` names; `None` for a module itself, and for what is not ours.
fn owner(modules: &BTreeMap<Names, Source>, path: &[String], depth: usize) -> Option<Names> {
    assert!(depth < 20, "re-exports in a circle: {path:?}");
    let (mut module, mut rest) = (Vec::new(), path);
    while let [first, others @ ..] = rest {
        let mut child = module.clone();
        child.push(first.clone());
        if modules.contains_key(&child) {
            (module, rest) = (child, others);
            continue;
        }
        if let Some((_, target, _)) = modules[&module]
            .uses
            .iter()
            .find(|(name, target, _)| name == first && *target != path[..path.len() - others.len()])
        {
            let target: Names = target.iter().chain(others).cloned().collect();
            return owner(modules, &target, depth + 1);
        }
        return Some(module);
    }
    None
}
