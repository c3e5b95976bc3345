//! XML as a small tree: read from a hostile sender within bounds, and written so that it reads back the same.
//!
//! There are no document types, no entities beside the five of XML itself, and no external anything: what would need
//! them is refused before it is looked at. Prefixes of elements are passed over, as are declarations of namespaces.

use std::io;

use quick_xml::events::{BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};

/// How deep elements may be nested; the documents of this API have four levels.
const MAX_DEPTH: usize = 16;

/// How many attributes an element may have; those of this API have some twenty.
const MAX_ATTRIBUTES: usize = 64;

/// An element: its attributes, and either elements or text within.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) attributes: Vec<(String, String)>,
    pub(super) children: Vec<Node>,
    pub(super) text: String,
}

/// Why a text is not read as XML.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum XmlError {
    /// It is not UTF-8, or holds a character that XML cannot have.
    #[error("a character that XML cannot have")]
    Character,
    /// It is not well-formed.
    #[error("not well-formed near byte {0}")]
    Malformed(u64),
    /// It declares a document type.
    #[error("a document type, which is not read")]
    DocumentType,
    /// It refers to an entity that is not XML's own.
    #[error("an entity that is not XML's own")]
    Entity,
    /// It is nested too deep, or an element has too many attributes.
    #[error("too deep, or too many attributes")]
    TooMuch,
}

impl Node {
    /// An element that is empty so far.
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    /// With one more attribute.
    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.attributes.push((name.to_owned(), value.into()));
        self
    }

    /// With these elements within.
    pub(super) fn holding(mut self, children: impl IntoIterator<Item = Self>) -> Self {
        self.children.extend(children);
        self
    }

    /// With this text within.
    pub(super) fn saying(mut self, text: impl Into<String>) -> Self {
        self.text = text.into();
        self
    }

    /// An attribute's value.
    pub(super) fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Reads one document. The caller has bounded its length.
pub(super) fn read(body: &[u8]) -> Result<Node, XmlError> {
    let text = utf8(body)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if !text.chars().all(is_character) {
        return Err(XmlError::Character);
    }
    let mut reader = Reader::from_str(text);
    // The elements that are open, outermost first.
    let mut open: Vec<Node> = Vec::new();
    let mut root: Option<Node> = None;
    loop {
        let malformed = XmlError::Malformed(reader.buffer_position());
        let event = reader.read_event().map_err(|_| XmlError::Malformed(reader.error_position()))?;
        let ended = match event {
            Event::Start(tag) => {
                if open.len() >= MAX_DEPTH {
                    return Err(XmlError::TooMuch);
                }
                open.push(started(&tag)?);
                None
            }
            Event::Empty(tag) => Some(started(&tag)?),
            Event::End(_) => Some(open.pop().ok_or(malformed)?),
            Event::Text(text) => {
                said(&mut open, &utf8(&text)?.replace("\r\n", "\n"))?;
                None
            }
            Event::CData(text) => {
                said(&mut open, utf8(&text)?)?;
                None
            }
            Event::GeneralRef(name) => {
                said(&mut open, &referred(utf8(&name)?)?.to_string())?;
                None
            }
            Event::DocType(_) => return Err(XmlError::DocumentType),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => None,
            Event::Eof if open.is_empty() => return root.ok_or(malformed),
            Event::Eof => return Err(malformed),
        };
        if let Some(mut node) = ended {
            if !node.children.is_empty() {
                // The white space between them.
                node.text.clear();
            }
            match open.last_mut() {
                Some(parent) => parent.children.push(node),
                None if root.is_none() => root = Some(node),
                None => return Err(XmlError::Malformed(reader.buffer_position())),
            }
        }
    }
}

/// Writes a document, one element a line.
pub(super) fn written(node: &Node) -> String {
    let mut writer = Writer::new_with_indent(b"<?xml version='1.0' encoding='UTF-8'?>\n".to_vec(), b' ', 2);
    write_node(node, &mut writer).expect("memory takes all that is written to it");
    let mut text = String::from_utf8(writer.into_inner()).expect("text was written");
    text.push('\n');
    text
}

fn write_node(node: &Node, writer: &mut Writer<Vec<u8>>) -> io::Result<()> {
    let attributes: Vec<_> = node.attributes.iter().map(|(name, value)| (name, escaped(value, true))).collect();
    let attributes = attributes.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let element = writer.create_element(&*node.name).with_attributes(attributes);
    if !node.children.is_empty() {
        element.write_inner_content(|writer| node.children.iter().try_for_each(|child| write_node(child, writer)))?;
    } else if node.text.is_empty() {
        element.write_empty()?;
    } else {
        element.write_text_content(BytesText::from_escaped(escaped(&node.text, false)))?;
    }
    Ok(())
}

/// Text so that it reads back the same, which is more than XML's own five characters. What XML cannot have becomes
/// U+FFFD.
fn escaped(text: &str, is_attribute: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' if is_attribute => out.push_str("&quot;"),
            // Readers turn these into spaces in attributes, and line ends into line feeds anywhere.
            '\t' if is_attribute => out.push_str("&#9;"),
            '\n' if is_attribute => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            char if is_character(char) => out.push(char),
            _ => out.push(char::REPLACEMENT_CHARACTER),
        }
    }
    out
}

/// Whether XML 1.0 can have it (section 2.2).
pub(super) const fn is_character(char: char) -> bool {
    matches!(char, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

fn utf8(bytes: &[u8]) -> Result<&str, XmlError> {
    std::str::from_utf8(bytes).map_err(|_| XmlError::Character)
}

/// Text within the innermost element. Outside of all there may be white space only.
fn said(open: &mut [Node], text: &str) -> Result<(), XmlError> {
    match open.last_mut() {
        Some(node) => node.text.push_str(text),
        None if text.trim_ascii().is_empty() => {}
        None => return Err(XmlError::Malformed(0)),
    }
    Ok(())
}

fn started(tag: &BytesStart) -> Result<Node, XmlError> {
    let mut node = Node::new(utf8(tag.local_name().as_ref())?);
    for (count, attribute) in tag.attributes().enumerate() {
        if count >= MAX_ATTRIBUTES {
            return Err(XmlError::TooMuch);
        }
        // Twice the same attribute is an error of the reader.
        let attribute = attribute.map_err(|_| XmlError::Malformed(0))?;
        let name = utf8(attribute.key.as_ref())?;
        if name == "xmlns" || name.starts_with("xmlns:") {
            continue;
        }
        node.attributes.push((name.to_owned(), unescaped(utf8(&attribute.value)?)?));
    }
    Ok(node)
}

/// The value of an attribute: white space normalised, references resolved (XML 1.0 section 3.3.3).
fn unescaped(text: &str) -> Result<String, XmlError> {
    if text.contains('<') {
        return Err(XmlError::Malformed(0));
    }
    let plain = |text: &str| text.replace("\r\n", " ").replace(['\t', '\n', '\r'], " ");
    let mut parts = text.split('&');
    let mut out = plain(parts.next().unwrap_or_default());
    for part in parts {
        let (name, rest) = part.split_once(';').ok_or(XmlError::Entity)?;
        out.push(referred(name)?);
        out.push_str(&plain(rest));
    }
    Ok(out)
}

/// The character that `&name;` is for.
fn referred(name: &str) -> Result<char, XmlError> {
    let code = |digits: &str, radix| {
        let is_plain = digits.chars().all(|digit| digit.is_digit(radix));
        let code = if is_plain { u32::from_str_radix(digits, radix).ok() } else { None };
        code.and_then(char::from_u32).filter(|char| is_character(*char)).ok_or(XmlError::Character)
    };
    match name {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        _ => match name.strip_prefix('#') {
            Some(number) => match number.strip_prefix('x') {
                Some(digits) => code(digits, 16),
                None => code(number, 10),
            },
            None => Err(XmlError::Entity),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_text(text: &str) -> Result<Node, XmlError> {
        read(text.as_bytes())
    }

    #[test]
    fn elements_attributes_and_text_are_read() {
        let text = "<?xml version='1.0'?>\n<!-- a -->\n<v:volume xmlns:v='urn:x' size=\"1\" name='a&lt;&#x42;\tc'>\n  \
                    <metadata><meta key=\"k\">v &amp; <![CDATA[<w>]]></meta></metadata>\n</v:volume>\n";
        let meta = Node::new("meta").with("key", "k").saying("v & <w>");
        let expected = Node::new("volume")
            .with("size", "1")
            .with("name", "a<B c")
            .holding([Node::new("metadata").holding([meta])]);
        assert_eq!(read_text(text), Ok(expected));
    }

    #[test]
    fn a_document_type_is_refused_before_its_entities_are_seen() {
        let bomb = "<!DOCTYPE v [<!ENTITY a \"aa\"><!ENTITY b \"&a;&a;\">]><volume size=\"&b;\"/>";
        assert_eq!(read_text(bomb), Err(XmlError::DocumentType));
        let external = "<!DOCTYPE v SYSTEM \"file:///etc/passwd\"><volume/>";
        assert_eq!(read_text(external), Err(XmlError::DocumentType));
        assert_eq!(read_text("<volume name=\"&a;\"/>"), Err(XmlError::Entity));
        assert_eq!(read_text("<volume>&a;</volume>"), Err(XmlError::Entity));
        assert_eq!(read_text("<volume>&#0;</volume>"), Err(XmlError::Character));
        assert_eq!(read_text("<volume>&#x+41;</volume>"), Err(XmlError::Character));
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        for wrong in [
            "",
            " ",
            "volume",
            "<volume",
            "<volume>",
            "</volume>",
            "<a></b>",
            "<a/><b/>",
            "<a/>b",
            "<a b/>",
            "<a b=c/>",
            "<a b='1' b='2'/>",
            "<a b='<'/>",
            "<a>\u{1}</a>",
            "{}",
        ] {
            assert!(read_text(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(read(b"<a>\xff</a>"), Err(XmlError::Character));
    }

    #[test]
    fn depth_and_attributes_are_bounded() {
        let deep = |levels: usize| format!("{}{}", "<a>".repeat(levels), "</a>".repeat(levels));
        assert!(read_text(&deep(MAX_DEPTH)).is_ok());
        assert_eq!(read_text(&deep(MAX_DEPTH + 1)), Err(XmlError::TooMuch));
        let wide = |count: usize| {
            let attributes: Vec<String> = (0..count).map(|at| format!("a{at}='1'")).collect();
            format!("<a {}/>", attributes.join(" "))
        };
        assert!(read_text(&wide(MAX_ATTRIBUTES)).is_ok());
        assert_eq!(read_text(&wide(MAX_ATTRIBUTES + 1)), Err(XmlError::TooMuch));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_the_same(value in any::<String>(), text in any::<String>()) {
            let node = |clean: fn(&str) -> String| {
                let inner = Node::new("meta").with("key", clean(&value)).saying(clean(&text));
                Node::new("metadata").with("a", clean(&value)).holding([inner])
            };
            let replaced = |text: &str| -> String {
                text.chars().map(|char| if is_character(char) { char } else { char::REPLACEMENT_CHARACTER }).collect()
            };
            prop_assert_eq!(read_text(&written(&node(str::to_owned))), Ok(node(replaced)));
        }

        #[test]
        fn no_bytes_panic(bytes in any::<Vec<u8>>(), text in "(<|/|>|a|=|'|\"|&|;|#|!|\\[|\\]|-|\\?| |DOCTYPE|CDATA){0,40}") {
            let _ = read(&bytes);
            let _ = read_text(&text);
        }
    }
}
