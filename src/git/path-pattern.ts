import { TimoneError } from '../errors.ts'

/**
 * gitignore-like patterns as git-lfs reads them: its own library `git-lfs/wildmatch`, with `Contents`, so that a pattern
 * that matches a folder matches all that is in it. It is not quite git's: a `**` takes as much as it can and never gives
 * back, a trailing `/` does not ask for a folder, a leading `!` does not negate.
 *
 * All text here is bytes, one character each (Latin 1), as in that library; only `[…]` reads whole letters.
 */
export interface Pattern {
  /** Matches at any depth: the pattern has no `/`, except at its end. */
  readonly floating: boolean
  readonly steps: readonly Step[]
}

/** One folder or file name of a pattern; `'**'`: any number of them. */
type Step = '**' | readonly Atom[]
type Atom = { readonly text: string } | { readonly class: CharacterClass } | 'any-byte' | 'any-bytes'

interface CharacterClass {
  readonly included: readonly Letters[]
  readonly excluded: readonly Letters[]
}
type Letters = (codePoint: number) => boolean

/** Paths and patterns in any case where file names are, as in git-lfs: everywhere but on Linux. */
const FOLD = process.platform !== 'linux'

/** @throws {TimoneError} `config` where git-lfs gives up: an unclosed class or escape, a class it does not know */
export function parsePattern(text: string): Pattern {
  let bytes = Buffer.from(text).toString('latin1')
  // A backslash that escapes nothing is a slash.
  bytes = bytes.replace(/\\([\\[\]*?#])?/g, (whole, escaped: string | undefined) =>
    escaped === undefined ? '/' : whole,
  )
  if (FOLD) bytes = bytes.toLowerCase()
  const parts = bytes.split('/')
  const floating = parts.length === 1 || (parts.length === 2 && parts[1] === '')
  const steps: Step[] = []
  for (const [index, part] of parts.entries()) {
    if (part === '**') {
      // One of several in a row says it all; two would only take time, with a hostile .lfsconfig too much of it.
      if (steps.at(-1) !== '**') steps.push(part)
    } else if (part !== '' || (parts.length === 1 && index === 0)) steps.push(parseName(part, text))
  }
  return { floating, steps }
}

/** True when the pattern matches the path, given as its names, or a folder that it is in. */
export function matchPattern({ floating, steps }: Pattern, names: readonly string[]): boolean {
  // Nothing but slashes.
  if (steps.length === 0) return false
  let at = 0
  for (let index = 0; index < steps.length; index++) {
    let step = steps[index] as Step
    let anywhere = floating && index === 0
    if (step === '**') {
      const next = steps[++index]
      if (next === undefined) return at < names.length
      step = next
      anywhere = true
    }
    if (anywhere) {
      let last = names.length - 1
      while (last >= at && !matchName(step as readonly Atom[], names[last] as string)) last--
      if (last < at) return false
      at = last + 1
    } else {
      const name = names[at++]
      if (name === undefined || !matchName(step as readonly Atom[], name)) return false
    }
  }
  return true
}

/** Whole match, in time proportional to both lengths' product at most: only the last `*` is ever tried again. */
function matchName(atoms: readonly Atom[], given: string): boolean {
  const name = FOLD ? given.toLowerCase() : given
  let at = 0
  let atom = 0
  let retryAtom = -1
  let retryAt = 0
  while (at < name.length || atom < atoms.length) {
    const current = atoms[atom]
    if (current === 'any-bytes') {
      retryAtom = ++atom
      retryAt = at
      continue
    }
    const length = current === undefined ? 0 : consumed(current, name, at)
    if (length > 0) {
      at += length
      atom++
    } else {
      if (retryAtom === -1 || retryAt >= name.length) return false
      atom = retryAtom
      at = ++retryAt
    }
  }
  return true
}

/** How many bytes at `at` the atom takes; 0: it does not match. */
function consumed(atom: Exclude<Atom, 'any-bytes'>, name: string, at: number): number {
  if (at >= name.length) return 0
  if (atom === 'any-byte') return 1
  if ('text' in atom) return name.startsWith(atom.text, at) ? atom.text.length : 0
  const { letter, length } = letterAt(name, at)
  const { included, excluded } = atom.class
  const matches =
    (included.length === 0 || included.some((has) => has(letter))) && !excluded.some((has) => has(letter))
  return matches ? length : 0
}

/** The letter whose UTF-8 bytes begin at `at`. */
function letterAt(name: string, at: number): { letter: number; length: number } {
  const first = name.charCodeAt(at)
  const length = first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4
  if (length === 1) return { letter: first, length }
  const text = Buffer.from(name.slice(at, at + length), 'latin1').toString('utf8')
  const letter = text.codePointAt(0) as number
  return letter === 0xfffd ? { letter, length: 1 } : { letter, length }
}

function parseName(part: string, whole: string): readonly Atom[] {
  const atoms: Atom[] = []
  let at = 0
  while (at < part.length) {
    const character = part[at]
    if (character === '\\') {
      atoms.push({ text: part.charAt(at + 1) })
      at += 2
    } else if (character === '*') {
      if (atoms.at(-1) !== 'any-bytes') atoms.push('any-bytes')
      at++
    } else if (character === '?') {
      atoms.push('any-byte')
      at++
    } else if (character === '[') {
      const parsed = parseClass(part, at, whole)
      atoms.push({ class: parsed.class })
      at = parsed.end
    } else {
      const end = part.slice(at).search(/[[*?\\]/)
      const text = part.slice(at, end === -1 ? part.length : at + end)
      atoms.push({ text })
      at += text.length
    }
  }
  return atoms
}

function parseClass(part: string, start: number, whole: string): { class: CharacterClass; end: number } {
  const included: Letters[] = []
  const excluded: Letters[] = []
  let negated = false
  let run = ''
  const add = (letters: Letters) => (negated ? excluded : included).push(letters)
  const addRun = () => {
    const letters = new Set([...run].map((letter) => letter.codePointAt(0) as number))
    if (letters.size > 0) add((letter) => letters.has(letter))
    run = ''
  }
  let at = start + 1
  for (; at < part.length && part[at] !== ']'; ) {
    const character = part[at] as string
    if (character === '^' || character === '!') {
      negated = !negated
      at++
    } else if (part.startsWith('[:', at)) {
      const close = part.indexOf(':]', at)
      if (close === -1) throw unreadable(whole)
      if (close === at + 1) {
        run += '[:]'
        at += 2
        continue
      }
      const letters = CLASSES[part.slice(at + 2, close).toLowerCase()]
      if (letters === undefined) throw unreadable(whole)
      add(letters)
      at = close + 2
    } else if (character === '-') {
      const last = part[at + 1]
      if (last === undefined) throw unreadable(whole)
      const from = run === '' ? 0 : run.charCodeAt(run.length - 1)
      run = run.slice(0, -1)
      addRun()
      const to = last.charCodeAt(0)
      const [low, high] = from <= to ? [from, to] : [to, from]
      add((letter) => low <= letter && letter <= high)
      at += 2
    } else if (character === '\\') {
      run += part.charAt(at + 1)
      at += 2
    } else {
      run += character
      at++
    }
  }
  addRun()
  return { class: { included, excluded }, end: Math.min(at + 1, part.length) }
}

const unreadable = (pattern: string) =>
  new TimoneError(
    'config',
    `the pattern ${JSON.stringify(pattern)} of an include or exclude list cannot be read`,
  )

const letters =
  (expression: RegExp): Letters =>
  (letter) =>
    expression.test(String.fromCodePoint(letter))

const CLASSES: Readonly<Record<string, Letters>> = {
  alnum: letters(/[\p{N}\p{L}]/u),
  alpha: letters(/\p{L}/u),
  blank: letters(/[ \t]/),
  cntrl: letters(/\p{Cc}/u),
  digit: letters(/\p{Nd}/u),
  graph: letters(/[\p{L}\p{M}\p{N}\p{P}\p{S}\p{Zs}]/u),
  lower: letters(/\p{Ll}/u),
  print: letters(/[\p{L}\p{M}\p{N}\p{P}\p{S} ]/u),
  punct: letters(/\p{P}/u),
  space: letters(/[\t\n\v\f\r \u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]/),
  upper: letters(/\p{Lu}/u),
  xdigit: letters(/[\p{Nd}a-fA-F]/u),
}
