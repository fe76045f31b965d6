/**
 * html`<p class=${c}>${text}</p>`: a node of the document, made without a parser of HTML.
 *
 * What a template says is read once, by the few rules below, and made with `createElement`. A value becomes a text node,
 * an attribute or a listener, by the DOM; nothing that a device or a sender has said is ever read as HTML. So stored
 * script is impossible by construction: there is no innerHTML in the console, and a test says so.
 *
 *   html`<p>${text}</p>`                 text; a node; an array of these; null, undefined and booleans are nothing
 *   html`<a href=${address}>..</a>`      an attribute: null, undefined and false leave it out, true is the empty one
 *   html`<a class="row ${state}">`       an attribute in parts
 *   html`<button onclick=${fn}>`         a listener: the attribute's name begins with `on`
 *
 * Every element is closed, but for the void ones and `<path />`. White space with a line break in it, beside a tag, is
 * left out. One element at the top gives that element, several give a fragment.
 *
 * `update(root, content)` makes what is in `root` like `content`, and keeps the elements that stay: focus, selection,
 * scroll position and what a person has typed stay with them. Elements of a list are found again by `data-key`. What is
 * inside an element with `data-keep` belongs to whoever made it, and is left alone.
 */

const VOID = new Set(["area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "track", "wbr"]);
const SVG = "http://www.w3.org/2000/svg";
/** Elements that are of a picture wherever a template begins with them. */
const OF_SVG = new Set(["svg", "g", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text", "tspan"]);
/** Attributes that would be run, or styled against the policy. Styles of one element: `element.style.setProperty`. */
const REFUSED = new Set(["style", "srcdoc"]);
const ADDRESSES = new Set(["href", "src", "action", "formaction", "poster", "data", "xlink:href"]);
const SAFE_ADDRESS = /^(https?:|mailto:|tel:|blob:|data:image\/(png|jpeg|gif|webp|svg\+xml);|[^:]*$|[^:]*[/?#])/i;

const templates = new WeakMap();
/** Element -> type of event -> what listens. One listener of ours stands for it, so that `update` can exchange it. */
const listeners = new WeakMap();

export function html(strings, ...values) {
  let parsed = templates.get(strings);
  if (parsed === undefined) templates.set(strings, (parsed = new Reader(strings).read()));
  const nodes = parsed.flatMap((part) => build(part, values, false));
  if (nodes.length === 1) return nodes[0];
  const fragment = document.createDocumentFragment();
  fragment.append(...nodes);
  return fragment;
}

/** Put content where the children of `root` were; those that stay keep focus, scroll position and typed text. */
export function update(root, ...content) {
  const fragment = document.createDocumentFragment();
  fragment.append(...content.flatMap(nodesOf));
  patchChildren(root, fragment);
}

/** Call `fn` on events of this type; the one before is not called any more. */
export function listen(element, type, fn) {
  let of = listeners.get(element);
  if (of === undefined) listeners.set(element, (of = new Map()));
  if (!of.has(type)) element.addEventListener(type, dispatch);
  of.set(type, fn);
}

function dispatch(event) {
  return listeners.get(this)?.get(event.type)?.call(this, event);
}

// From values to nodes

function nodesOf(value) {
  if (value === null || value === undefined || typeof value === "boolean") return [];
  if (Array.isArray(value)) return value.flatMap(nodesOf);
  return [value instanceof Node ? value : document.createTextNode(String(value))];
}

function build(part, values, inSvg) {
  if (typeof part === "string") return [document.createTextNode(part)];
  if (typeof part === "number") return nodesOf(values[part]);
  const svg = inSvg || OF_SVG.has(part.name);
  const element = svg ? document.createElementNS(SVG, part.name) : document.createElement(part.name);
  for (const [name, pieces] of part.attributes) setAttribute(element, name, valueOf(pieces, values));
  for (const child of part.children) element.append(...build(child, values, svg && part.name !== "foreignObject"));
  // After the options are there: a select shows the one of its attribute.
  if (part.name === "select" && element.hasAttribute("value")) element.value = element.getAttribute("value");
  return [element];
}

function valueOf(pieces, values) {
  if (pieces.length === 1) return typeof pieces[0] === "number" ? values[pieces[0]] : pieces[0];
  return pieces.map((piece) => (typeof piece === "number" ? (values[piece] ?? "") : piece)).join("");
}

function setAttribute(element, name, value) {
  if (name.startsWith("on")) {
    if (value === null || value === undefined || value === false) return;
    if (typeof value !== "function") throw new TypeError(`${name} takes a function`);
    listen(element, name.slice(2), value);
    return;
  }
  if (REFUSED.has(name)) throw new TypeError(`no ${name} attribute in a template`);
  if (value === null || value === undefined || value === false) return;
  const text = value === true ? "" : String(value);
  if (ADDRESSES.has(name) && !isSafeAddress(text)) return;
  element.setAttribute(name, text);
}

/** Whether an address that others have said can be a link: not one that is a script. */
export function isSafeAddress(address) {
  return SAFE_ADDRESS.test(address.replace(/[\u0000-\u0020]/g, ""));
}

// From what was to what shall be

function patchChildren(root, wanted) {
  const keyed = new Map();
  for (const child of root.children) if (child.dataset?.key !== undefined) keyed.set(child.dataset.key, child);
  let place = root.firstChild;
  for (const next of [...wanted.childNodes]) {
    const key = next.dataset?.key;
    let found = key === undefined ? place : (keyed.get(key) ?? null);
    if (key === undefined) while (found?.dataset?.key !== undefined) found = found.nextSibling;
    if (found === null || !alike(found, next)) {
      root.insertBefore(next, place);
      continue;
    }
    if (found === place) place = place.nextSibling;
    else root.insertBefore(found, place);
    patch(found, next);
  }
  while (place !== null) {
    const gone = place;
    place = place.nextSibling;
    gone.remove();
  }
}

function alike(one, other) {
  return one.nodeType === other.nodeType && one.nodeName === other.nodeName && one.id === other.id;
}

function patch(element, wanted) {
  if (element.nodeType !== Node.ELEMENT_NODE) {
    if (element.data !== wanted.data) element.data = wanted.data;
    return;
  }
  if (element.dataset.keep !== undefined) return;
  for (const { name } of [...element.attributes]) {
    if (!wanted.hasAttribute(name) && !(name === "open" && isOpened(element))) element.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }
  const now = listeners.get(wanted) ?? new Map();
  for (const type of listeners.get(element)?.keys() ?? []) if (!now.has(type)) listeners.get(element).delete(type);
  for (const [type, fn] of now) listen(element, type, fn);
  patchChildren(element, wanted);
}

/** Whether a person may have opened it: that is not undone. */
function isOpened(element) {
  return element.nodeName === "DETAILS" || element.nodeName === "DIALOG";
}

// From a template to its parts: a string, the number of a value, or {name, attributes: [[name, pieces]], children}

class Reader {
  /** The strings with a mark for each value: U+0000 stands for one, and is in no template. */
  constructor(strings) {
    this.text = strings.join("\0");
    this.at = 0;
    this.values = 0;
  }

  read() {
    const parts = this.children(null);
    if (this.at < this.text.length) this.fail("a closing tag without its element");
    return parts;
  }

  children(parent) {
    const parts = [];
    while (this.at < this.text.length) {
      if (this.text.startsWith("</", this.at)) return parts;
      if (this.text[this.at] === "<") parts.push(this.element());
      else parts.push(...this.words());
    }
    if (parent !== null) this.fail(`<${parent}> is not closed`);
    return parts;
  }

  words() {
    const end = this.text.indexOf("<", this.at);
    const words = this.text.slice(this.at, end < 0 ? this.text.length : end);
    this.at += words.length;
    const parts = [];
    const pieces = words.split("\0");
    pieces.forEach((piece, number) => {
      let text = piece;
      if (number === 0) text = text.replace(/^\s*\n\s*/, "");
      if (number === pieces.length - 1) text = text.replace(/\s*\n\s*$/, "");
      // Between two values on lines of their own there is nothing either.
      if (!/^\s*\n\s*$/.test(text) && text !== "") parts.push(text.replace(/\s+/g, " "));
      if (number < pieces.length - 1) parts.push(this.values++);
    });
    return parts;
  }

  element() {
    const name = this.match(/<([A-Za-z][\w-]*)/y)[1];
    const attributes = [];
    for (;;) {
      this.match(/\s*/y);
      const end = this.match(/\/?>|(?=[\w:@-])/y)[0];
      if (end === "/>" || (end === ">" && VOID.has(name))) return { name, attributes, children: [] };
      if (end === ">") break;
      attributes.push(this.attribute());
    }
    const children = this.children(name);
    this.match(new RegExp(`</${name}\\s*>`, "y"));
    return { name, attributes, children };
  }

  attribute() {
    const [, name, , quoted, bare] = this.match(/([\w:-]+)(\s*=\s*(?:"([^"]*)"|([^\s>"]+?(?=\s|\/?>))))?/y);
    const text = quoted ?? bare ?? "";
    const pieces = [];
    text.split("\0").forEach((piece, number) => {
      if (number > 0) pieces.push(this.values++);
      if (piece !== "") pieces.push(piece);
    });
    return [name, pieces.length > 0 ? pieces : [""]];
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    const found = pattern.exec(this.text);
    if (found === null) this.fail("not a template");
    this.at = pattern.lastIndex;
    return found;
  }

  fail(why) {
    throw new SyntaxError(`${why}: ${this.text.slice(Math.max(0, this.at - 40), this.at + 40).replaceAll("\0", "${..}")}`);
  }
}
