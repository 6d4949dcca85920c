import { chmod, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { gitLfsVersions } from '../helpers/git-lfs.ts'
import { type SshServer, startSshServer } from '../helpers/sshd.ts'
import {
  backendSettings,
  hashTree,
  type RunningServer,
  startServer,
  TIMONE,
  TOKEN_SECRET,
  World,
  writeRandom,
} from '../helpers/world.ts'

/** As the README has it. */
const FORCED_COMMAND = (server: RunningServer, root: string): string => `#!/bin/sh
export TIMONE_TOKEN_SECRET='${TOKEN_SECRET}' TIMONE_ENDPOINT_URL='${server.url}'
case "$SSH_ORIGINAL_COMMAND" in
  git-upload-pack\\ * | git-receive-pack\\ *) exec git-shell -c "$SSH_ORIGINAL_COMMAND" ;;
  *) PATH=${process.env.PATH} exec ${TIMONE} git-lfs-authenticate --user "$1" --scope 'lfs:org/*:rw' --root ${root} ;;
esac
`

for (const gitLfs of gitLfsVersions()) {
  describe.skipIf(gitLfs.missing !== undefined)(`${gitLfs.name} over ssh`, () => {
    let world: World
    let server: RunningServer
    let ssh: SshServer
    let root: string

    beforeAll(async () => {
      world = await World.create(gitLfs.folder === undefined ? {} : { gitLfs: gitLfs.folder })
      const data = world.path('data')
      server = await startServer(data, backendSettings('file', data))
      root = world.path('srv')
      const script = world.path('git-ssh')
      await writeFile(script, FORCED_COMMAND(server, root))
      await chmod(script, 0o755)
      ssh = await startSshServer(world.path('ssh'), `${script} bob`)
      world.env.GIT_SSH_COMMAND = ssh.command
      await world.install()
      await world.git(world.folder, 'init', '-q', '--bare', join(root, 'org', 'repo.git'))
      await world.git(world.folder, 'init', '-q', '--bare', join(root, 'other', 'repo.git'))
    })
    afterAll(async () => {
      await ssh?.stop()
      await server?.stop()
      await world?.remove()
    })

    test('push, clone, pull and lock without any sign-in', async () => {
      const remote = `${ssh.url}${root}/org/repo.git`
      const work = world.path('work')
      await world.git(world.folder, 'clone', '-q', remote, work)
      await world.git(work, 'lfs', 'track', '*.bin')
      await writeRandom(join(work, 'a.bin'), 100_000)
      await writeRandom(join(work, 'b.bin'), 10)
      await world.commit(work)
      await world.git(work, 'push', '-q', 'origin', 'main')

      const clone = world.path('clone')
      await world.git(world.folder, 'clone', '-q', remote, clone)
      expect(await hashTree(clone)).toEqual(await hashTree(work))

      await world.git(clone, 'lfs', 'lock', 'a.bin')
      expect(await world.git(work, 'lfs', 'locks')).toContain('bob')

      await writeRandom(join(work, 'c.bin'), 1000)
      await world.commit(work)
      expect((await world.timone(work, 'push')).code).toBe(0)
      await world.git(work, 'push', '-q', 'origin', 'main')
      world.env.GIT_LFS_SKIP_SMUDGE = '1'
      await world.git(clone, 'pull', '-q')
      delete world.env.GIT_LFS_SKIP_SMUDGE
      expect((await world.timone(clone, 'pull')).code).toBe(0)
      expect(await hashTree(clone)).toEqual(await hashTree(work))

      const { code, stdout } = await world.timone(clone, 'doctor')
      expect(stdout).toContain("token                accepted, may read and write here (not from git's")
      expect(code).toBe(0)
    })

    test('a repository that the key does not open', async () => {
      const work = world.path('other')
      await world.git(world.folder, 'clone', '-q', `${ssh.url}${root}/other/repo.git`, work)
      await world.git(work, 'lfs', 'track', '*.bin')
      await writeRandom(join(work, 'a.bin'), 10)
      await world.commit(work)
      const { code, stderr } = await world.tryGit(work, 'push', '-q', 'origin', 'main')
      expect(code).not.toBe(0)
      expect(stderr).toContain('no such repository')
      const { stdout } = await world.timone(work, 'doctor')
      expect(stdout).toMatch(/^FAIL {2}server .*no such repository.* -> ssh .* git-lfs-authenticate /m)
    })
  })
}
