import { parse, TomlError, type TomlTable } from 'smol-toml'
import { TimoneError } from '../errors.ts'
import { didYouMean } from './nearest.ts'

/**
 * The settings in the text of a TOML file, by their path (`storage.s3.bucket`), each as the text that the environment
 * would hold.
 * @param name of the file, for messages
 * @param known every path that a setting has
 * @throws {TimoneError} `config`: not TOML (said without the line itself, which may hold a secret), a path that no
 *   setting has, or a value that is neither text, number, boolean nor list of texts
 */
export function readTomlSettings(text: string, name: string, known: readonly string[]): Map<string, string> {
  let table: TomlTable
  try {
    table = parse(text)
  } catch (error) {
    const place = error instanceof TomlError ? `:${error.line}:${error.column}` : ''
    throw new TimoneError('config', `${name}${place}: not valid TOML`)
  }
  const settings = new Map<string, string>()
  const sections = new Set(known.flatMap(parents))
  const walk = (from: TomlTable, above: string): void => {
    for (const [key, value] of Object.entries(from)) {
      const path = above === '' ? key : `${above}.${key}`
      const isTable = typeof value === 'object' && !Array.isArray(value) && !(value instanceof Date)
      // Names in a section of named tables are the operator's own.
      const place = path.replace(/^provider\.[^.]+/, 'provider.*')
      if (isTable && sections.has(place)) {
        walk(value as TomlTable, path)
      } else if (known.includes(place)) {
        settings.set(path, readText(value, `${name}: ${path}`))
      } else {
        const candidates = isTable ? sections : known
        throw new TimoneError('config', `${name}: unknown setting ${path}${didYouMean(path, candidates)}`)
      }
    }
  }
  walk(table, '')
  return settings
}

function parents(path: string): string[] {
  const parts = path.split('.')
  return parts.slice(1).map((_, index) => parts.slice(0, index + 1).join('.'))
}

function readText(value: unknown, where: string): string {
  if (typeof value === 'string') return value
  if (typeof value === 'number' || typeof value === 'boolean') return String(value)
  if (Array.isArray(value) && value.every((item) => typeof item === 'string')) return value.join(',')
  // Tables of an array have a shape of their own, which their setting reads.
  if (Array.isArray(value) && value.every((item) => typeof item === 'object')) return JSON.stringify(value)
  throw new TimoneError('config', `${where} must be text, a number, true, false or a list of texts`)
}
