import { execFileSync } from 'node:child_process'

export interface GitLfs {
  /** For test names. */
  name: string
  /** Folder with the program; undefined: the system's. */
  folder: string | undefined
  /** Why it cannot be had here; the tests with it then say SKIPPED. */
  missing: string | undefined
}

/** The versions that every end-to-end test runs with: the system's (3.3 on Debian 12) and the newest. */
export function gitLfsVersions(): GitLfs[] {
  const system = execFileSync('git-lfs', ['version'], { encoding: 'utf8' }).split(' ')[0] as string
  const folder = process.env.TIMONE_TEST_GIT_LFS
  if (folder === undefined || folder === '') {
    const missing =
      process.env.TIMONE_TEST_GIT_LFS_MISSING ?? 'TIMONE_TEST_GIT_LFS is not set (scripts/test sets it)'
    return [
      { name: system, folder: undefined, missing: undefined },
      { name: `newest git-lfs, not to be had: ${missing}`, folder: undefined, missing },
    ]
  }
  const newest = execFileSync(`${folder}/git-lfs`, ['version'], { encoding: 'utf8' }).split(' ')[0] as string
  return [
    { name: system, folder: undefined, missing: undefined },
    { name: newest, folder, missing: undefined },
  ]
}
