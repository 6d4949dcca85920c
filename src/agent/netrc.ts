import { readFile } from 'node:fs/promises'
import { join } from 'node:path'

/** What `~/.netrc` has for one machine. Secret. */
export interface NetrcLogin {
  username: string
  password: string
}

/** Looks `host` (without a port) up in the user's netrc file, as git and git-lfs do before they ask anybody. */
export async function readNetrc(
  host: string,
  env: Readonly<Record<string, string | undefined>>,
): Promise<NetrcLogin | undefined> {
  const home = env.HOME ?? env.USERPROFILE
  if (home === undefined || home === '') return undefined
  const name = process.platform === 'win32' ? '_netrc' : '.netrc'
  const text = await readFile(join(home, name), 'utf8').catch(() => '')
  return parseNetrc(text, host)
}

/** The entry of `host`, else the `default` one; undefined when neither has both a login and a password. */
export function parseNetrc(text: string, host: string): NetrcLogin | undefined {
  // A macro goes on to the next empty line, and may hold any word.
  const entries = text.replaceAll('\r', '').replace(/^[ \t]*macdef.*(?:\n.*\S.*)*/gm, '')
  const words = entries.match(/"(?:[^"\\]|\\.)*"|\S+/g) ?? []
  let entry: Partial<NetrcLogin> & { matches: boolean } = { matches: false }
  const found = (): NetrcLogin | undefined => {
    const { matches, username, password } = entry
    return matches && username !== undefined && password !== undefined ? { username, password } : undefined
  }
  for (let at = 0; at < words.length; at++) {
    const word = words[at]
    if (word === 'machine' || word === 'default') {
      const login = found()
      if (login !== undefined) return login
      // The default is the last entry, for whatever no other is for.
      entry = { matches: word === 'default' || words[++at]?.toLowerCase() === host.toLowerCase() }
    } else if (word === 'login') entry.username = unquote(words[++at])
    else if (word === 'password') entry.password = unquote(words[++at])
    else if (word === 'account') at++
  }
  return found()
}

const unquote = (word: string | undefined): string =>
  word === undefined ? '' : word.startsWith('"') ? word.slice(1, -1).replace(/\\(.)/g, '$1') : word
