import { readFile } from 'node:fs/promises'
import type { ServerSettings } from '../config/server-settings.ts'
import { systemCode, TimoneError } from '../errors.ts'
import type { LeaseSettings } from '../leases/leases.ts'

/** What the lease broker of a server needs, with the keys that the settings name read from their files. @throws {TimoneError} `config` */
export async function openLeases({
  github,
  githubApp,
  providers,
  returnOrigins,
}: ServerSettings): Promise<LeaseSettings> {
  if (githubApp === undefined) return { providers, returnOrigins }
  const { renewBefore, open } = githubApp
  const apps = await Promise.all(
    githubApp.apps.map(async ({ id, privateKey }) => ({ id, privateKey: await readKey(privateKey) })),
  )
  return { providers, returnOrigins, githubApps: { apps, api: github.api, renewBefore, open } }
}

async function readKey(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8')
  } catch (error) {
    throw new TimoneError('config', `cannot read the private key ${file} (${systemCode(error)})`, {
      cause: error,
    })
  }
}
