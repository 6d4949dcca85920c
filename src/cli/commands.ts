import { Argument, Command, Option } from 'commander'
import { VERSION } from '../version.ts'
import { type Done, examples } from './command-help.ts'
import { addDoctor } from './commands-doctor.ts'
import { addAuditTrail, addImportIdent } from './commands-identity.ts'
import { addImportTokenstore, addImportTokman, addSecrets } from './commands-leases.ts'
import { addPeople } from './commands-people.ts'
import { addSignIn } from './commands-sign-in.ts'
import { addImportRemoteStorage, addSpace } from './commands-space.ts'
import { addGitLfsAuthenticate } from './commands-ssh.ts'
import { addCache, addTransfers, addUploads } from './commands-transfers.ts'
import { addUsage } from './commands-usage.ts'
import type { ConfigScope } from './install.ts'
import type { Io } from './io.ts'
import type { ServeOptions } from './serve.ts'

/**
 * The tree of commands with all they say in `--help`. What a command does is loaded when it runs, so that none waits
 * for the others' libraries.
 */
export function commandTree(io: Io, done: Done): Command {
  const root = new Command('timone')
    .description('Git LFS objects straight into your own bucket: a transfer agent, and the server behind it.')
    .version(VERSION, '-V, --version', 'print the version')
    .helpOption('-h, --help', 'print this help')
    .helpCommand('help [command]', 'print the help of a command')
    .configureOutput({
      writeOut: (text) => io.stdout.write(text),
      writeErr: (text) => io.stderr.write(text),
      // One line, under the name that all our messages have.
      outputError: (text, write) =>
        write(
          `${text
            .trim()
            .replace(/^error: /, 'timone: ')
            .replace(/\s*\n\s*/g, ' ')}\n`,
        ),
    })
    .exitOverride()
    .showHelpAfterError(false)
  examples(root, [
    ['timone install', 'once for each user: git-lfs transfers through timone from now on'],
    ['timone init https://lfs.example.com/foo/bar', 'once for each repository: where its objects live'],
    ['timone serve', 'a server with everything on its defaults, to try it out'],
  ])
  addServe(root, io, done)
  addAgent(root, io, done)
  addInstall(root, io, done)
  addInit(root, io, done)
  addTransfers(root, io, done)
  addSignIn(root, io, done)
  addDoctor(root, io, done)
  addToken(root, io, done)
  addPeople(root, io, done)
  addAuditTrail(root, io, done)
  addGitLfsAuthenticate(root, io, done)
  addUploads(root, io, done)
  addSpace(root, io, done)
  addUsage(root, io, done)
  addSecrets(root, io, done)
  addImportTokman(root, io, done)
  addImportTokenstore(root, io, done)
  addImportIdent(root, io, done)
  addImportRemoteStorage(root, io, done)
  addConfig(root, io, done)
  addCache(root, io, done)
  addCompletion(root, io, done)
  return root
}

function addServe(root: Command, io: Io, done: Done): void {
  const command = root
    .command('serve')
    .summary('run the server')
    .description(
      'Runs the server that git-lfs asks for objects. With no settings at all it listens on 127.0.0.1:8000, keeps ' +
        'objects and a generated secret under ./timone-data, and prints what to paste. Settings come from options, ' +
        'the environment (TIMONE_*) and a TOML file, in this order; see timone config. SIGTERM lets running requests end.',
    )
    .option('--listen <host:port>', 'address to listen on; port 0 takes a free one (default: 127.0.0.1:8000)')
    .option('--data <dir>', "folder for the server's own files (default: ./timone-data)")
    .option('--config <file>', 'TOML file with settings')
    .option('--insecure', 'allow plain http on a public address, where tokens can be read on the way')
    .action(async (options: ServeOptions) => {
      const { serve } = await import('./serve.ts')
      done(await serve(options, io))
    })
  examples(command, [
    ['timone serve', 'try it out on this machine'],
    ['timone serve --data /var/lib/timone --config /etc/timone.toml', 'for a team, behind an https proxy'],
    [
      'TIMONE_STORAGE=s3 TIMONE_STORAGE_S3_BUCKET=lfs TIMONE_STORAGE_S3_REGION=eu-west-1 timone serve',
      'objects in a bucket',
    ],
  ])
}

function addAgent(root: Command, io: Io, done: Done): void {
  const command = root
    .command('agent')
    .summary('transfer objects for git-lfs (git-lfs starts this itself)')
    .description(
      'The custom transfer agent of git-lfs: speaks its protocol on stdin and stdout until stdin ends. git-lfs starts ' +
        'it after timone install. TIMONE_LOG=FILE keeps a log; GIT_TRACE=1 shows one. The sizes of parts and their ' +
        'number at a time are set with git config timone.partSize and timone.parallelParts.',
    )
    .action(async () => {
      const { runAgent } = await import('./agent.ts')
      done(await runAgent(io.env))
    })
  examples(command, [
    ['TIMONE_LOG=/tmp/timone.log git push', 'see what the agent did'],
    ['git config --global timone.parallelParts 8', 'more parts of a large file at a time'],
  ])
}

function addInstall(root: Command, io: Io, done: Done): void {
  const add = (name: 'install' | 'uninstall', summary: string, description: string): Command =>
    root
      .command(name)
      .summary(summary)
      .description(description)
      .addOption(new Option('--global', 'for this user (default)').conflicts(['local', 'system']))
      .addOption(new Option('--local', 'for this repository only').conflicts(['global', 'system']))
      .addOption(new Option('--system', 'for every user of this machine').conflicts(['global', 'local']))
      .option('--json', 'print what changed as JSON')
      .action(
        async (options: { local?: boolean; system?: boolean; json?: boolean; standalone?: boolean }) => {
          const commands = await import('./install.ts')
          const scope: ConfigScope = options.local ? 'local' : options.system ? 'system' : 'global'
          const { json = false, standalone = false } = options
          done(await commands[name]({ scope, json, standalone }, io))
        },
      )
  examples(
    add(
      'install',
      'make git-lfs transfer through timone',
      'Writes lfs.customtransfer.timone.* into the git configuration, so that git-lfs starts this very program, by its ' +
        'absolute path, as its transfer agent: also from hooks, graphical clients and CI with another PATH. Changes ' +
        'nothing when all is in place. Run it again when timone or Node has moved, as after an upgrade. ' +
        'With --standalone git-lfs asks no server: objects go straight to the bucket of git config timone.bucket.',
    ).option('--standalone', 'without a server: straight to the bucket of timone.bucket'),
    [
      ['timone install', 'for you, in every repository'],
      ['timone install --local', 'in this repository only'],
      ['timone install --local --standalone', 'in this repository, without a server'],
      ['sudo timone install --system', 'for every user, as on a build machine'],
    ],
  )
  examples(
    add(
      'uninstall',
      'undo timone install',
      'Removes what timone install wrote, and nothing else. git-lfs then transfers by itself, from the same server.',
    ),
    [
      ['timone uninstall', 'for you'],
      ['timone uninstall --local', 'in this repository only'],
    ],
  )
}

function addInit(root: Command, io: Io, done: Done): void {
  const command = root
    .command('init')
    .summary("say where a repository's objects live")
    .description(
      'Writes .lfsconfig at the top of the work tree: lfs.url, and lfs.locksverify so that locks count. Commit it, and ' +
        'everyone who clones has it. Asks the server first whether it is there, and writes nothing when it is not. ' +
        'User name and password do not belong into the address: git asks for them and keeps them.',
    )
    .addArgument(new Argument('<url>', 'https://host/org/repo; /info/lfs is added'))
    .option('--no-check', 'do not ask the server')
    .action(async (url: string, options: { check: boolean }) => {
      const { init } = await import('./init.ts')
      done(await init(url, options, io))
    })
  examples(command, [
    ['timone init https://lfs.example.com/foo/bar', 'objects of repository foo/bar'],
    ['timone init http://127.0.0.1:8000/foo/bar', 'a server on this machine'],
  ])
}

function addToken(root: Command, io: Io, done: Done): void {
  const token = root
    .command('token')
    .summary('make tokens and look into them')
    .description(
      "Makes tokens that people and runners sign in with, and looks into them. For the server's operator.",
    )
  const secret = (command: Command): Command =>
    command
      .option(
        '--data <dir>',
        "the server's data folder, which holds the generated secret (default: ./timone-data)",
      )
      .option('--config <file>', "the server's TOML file")
      .option('--json', 'print as JSON')

  const create = secret(
    token
      .command('create')
      .summary('print a new token')
      .description(
        "Prints a token, signed with the server's secret: TIMONE_TOKEN_SECRET, or from --config or --data. It is the " +
          'password that goes with the user name when git asks. A token cannot be taken back, so give it an end.',
      )
      .option('--user <name>', 'whom the token is for (required)')
      .option(
        '--scope <scope>',
        'what it opens, lfs:<org>/<repo>:<r|rw>, where a name may be *; may be repeated (default: every repository)',
        (scope: string, scopes: string[] | undefined) => [...(scopes ?? []), scope],
      )
      .option('--expires <time>', 'how long it is good: 3600, 90m, 12h, 30d (default: for ever)')
      .option(
        '--client <origin>',
        'a remoteStorage app that the token is for; scopes then read <module>:<r|rw>',
      ),
  ).action(async (options) => {
    if (options.client !== undefined) {
      const { createAppToken } = await import('./app-token.ts')
      return done(
        await createAppToken({ ...options, client: options.client, json: options.json ?? false }, io),
      )
    }
    const { createToken } = await import('./token.ts')
    done(await createToken({ ...options, json: options.json ?? false }, io))
  })
  examples(create, [
    [
      'timone token create --user bob --scope lfs:foo/bar:rw --expires 30d',
      'bob may push to foo/bar for a month',
    ],
    ['timone token create --user ci --scope "lfs:foo/*:r" --expires 1h', 'a runner may fetch all of foo'],
    [
      'timone token create --user bob --client https://app.example --scope photos:rw',
      "an app may use the photos in bob's storage",
    ],
  ])

  const inspect = secret(
    token
      .command('inspect')
      .summary('print what is in a token')
      .description(
        'Prints the header and claims of a token, when it expires, and, where the secret is known, whether the server ' +
          'would accept it. Exit code 1 when it would not. Reads the token from stdin, so that it need not appear in ' +
          'the list of processes or the history of the shell.',
      )
      .addArgument(new Argument('[token]', 'the token; - or nothing: read it from stdin')),
  ).action(async (text: string | undefined, options) => {
    const { inspectToken } = await import('./token.ts')
    done(await inspectToken(text, { ...options, json: options.json ?? false }, io))
  })
  examples(inspect, [
    ['timone token inspect < token.txt', 'when does it expire?'],
    ['timone token create --user bob 2>/dev/null | timone token inspect -', 'what does a new one look like?'],
  ])
  examples(token, [
    ['timone token create --user bob --scope lfs:foo/bar:rw --expires 30d', ''],
    ['timone token inspect < token.txt', ''],
  ])
}

function addConfig(root: Command, io: Io, done: Done): void {
  const command = root
    .command('config')
    .summary("print the server's settings and where each came from")
    .description(
      'Prints every setting that timone serve would start with, and where it came from: the environment, the file or ' +
        'the default. Secrets are masked. Complains as the server would.',
    )
    .option('--config <file>', 'TOML file with settings')
    .option('--data <dir>', "folder for the server's own files (default: ./timone-data)")
    .option('--json', 'print as JSON')
    .action(async (options) => {
      const { showConfig } = await import('./config.ts')
      done(await showConfig({ ...options, json: options.json ?? false }, io))
    })
  examples(command, [
    ['timone config --config /etc/timone.toml', 'check a file before a restart'],
    ['timone config --json | jq -r \'."server.url".value\'', 'for scripts'],
  ])
}

function addCompletion(root: Command, io: Io, done: Done): void {
  const command = root
    .command('completion')
    .summary('print a completion script for a shell')
    .description('Prints a script that teaches a shell to complete the commands and options of timone.')
    .addArgument(new Argument('<shell>', 'which shell').choices(['bash', 'zsh', 'fish']))
    .action(async (shell: 'bash' | 'zsh' | 'fish') => {
      const { completionScript } = await import('./completion.ts')
      io.stdout.write(completionScript(shell, root))
      done(0)
    })
  examples(command, [
    ['eval "$(timone completion bash)"', 'in ~/.bashrc'],
    ['eval "$(timone completion zsh)"', 'in ~/.zshrc, after compinit'],
    ['timone completion fish > ~/.config/fish/completions/timone.fish', 'once'],
  ])
}
