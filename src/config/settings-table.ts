import type { SettingType } from './setting-types.ts'

/** One setting, described once: the settings table of the README, `timone config` and the parser all read this. */
export interface Setting {
  readonly type: SettingType
  readonly env: string
  /** What a system that this server stands in for called it. */
  readonly aliases?: readonly string[]
  /** Long option of `timone serve`, without the dashes. */
  readonly flag?: string
  /** As it would be written in the environment. */
  readonly default?: string
  /** What stands in where `default` cannot say it. */
  readonly defaultWords?: string
  readonly choices?: Readonly<Record<string, string>>
  readonly sentence: string
}

const LEVELS = {
  trace: 'trace',
  debug: 'debug',
  info: 'info',
  warn: 'warn',
  error: 'error',
  fatal: 'fatal',
  silent: 'silent',
  // As the earlier timone, a Python program, spelled them.
  warning: 'warn',
  critical: 'fatal',
}

/** Every setting of the server, by its place in the TOML file. */
export const SERVER_SETTINGS = {
  'server.listen': {
    type: 'listen',
    env: 'TIMONE_LISTEN',
    flag: 'listen',
    default: '127.0.0.1:8000',
    sentence: 'Address to listen on, HOST:PORT; port 0 takes a free one.',
  },
  'server.url': {
    type: 'url',
    env: 'TIMONE_ENDPOINT_URL',
    defaultWords: 'http:// and the listen address',
    sentence: 'Public address of the server, as clients reach it; links in answers begin with it.',
  },
  'server.insecure': {
    type: 'boolean',
    env: 'TIMONE_INSECURE',
    flag: 'insecure',
    default: 'false',
    sentence: 'Allow plain http on a public address, where anyone on the way can read the tokens.',
  },
  'server.trusted_proxies': {
    type: 'networks',
    env: 'TIMONE_TRUSTED_PROXIES',
    default: '',
    sentence:
      'Addresses and networks of the proxies before the server, whose X-Forwarded-For says where a request came from, for the audit trail and the limits on guessing.',
  },
  'server.data': {
    type: 'path',
    env: 'TIMONE_DATA',
    flag: 'data',
    default: 'timone-data',
    sentence:
      "Folder for the server's own files: the generated secret and, with the file driver, the objects.",
  },
  'server.log_level': {
    type: 'choice',
    env: 'TIMONE_LOG_LEVEL',
    default: 'info',
    choices: LEVELS,
    sentence: 'Lowest level that is logged: trace, debug, info, warn, error, fatal or silent.',
  },
  'auth.token_secret': {
    type: 'secret',
    env: 'TIMONE_TOKEN_SECRET',
    defaultWords: 'generated, kept in DATA/token-secret',
    sentence: 'Secret that signs user tokens (HS256); 32 bytes or more.',
  },
  'auth.signing': {
    type: 'choice',
    env: 'TIMONE_AUTH_SIGNING',
    default: 'HS256',
    choices: { HS256: 'HS256', EdDSA: 'EdDSA', RS256: 'RS256' },
    sentence:
      'What tokens that the server issues are signed with: HS256, the token secret; EdDSA or RS256, keys of its own that rotate (/.well-known/jwks.json).',
  },
  'login.issuer': {
    type: 'url',
    env: 'TIMONE_LOGIN_ISSUER',
    aliases: ['TOKENSTORE_OIDC_DISCOVERY_URL', 'OIDC_DISCOVERY_URL'],
    defaultWords: 'none: no sign-in in the browser',
    sentence: 'OpenID provider that people sign in at.',
  },
  'login.client_id': {
    type: 'string',
    env: 'TIMONE_LOGIN_CLIENT_ID',
    aliases: ['TOKENSTORE_OIDC_CLIENT_ID', 'OIDC_CLIENT_ID'],
    sentence: 'Client id of this server at the provider; its redirect URI is URL/auth/callback.',
  },
  'login.client_secret': {
    type: 'secret',
    env: 'TIMONE_LOGIN_CLIENT_SECRET',
    aliases: ['TOKENSTORE_OIDC_CLIENT_SECRET', 'OIDC_CLIENT_SECRET'],
    sentence: 'Client secret of this server at the provider.',
  },
  'login.scope': {
    type: 'string',
    env: 'TIMONE_LOGIN_SCOPE',
    default: 'openid profile email',
    sentence: 'Scopes asked of the provider, separated by spaces.',
  },
  'login.groups_claim': {
    type: 'string',
    env: 'TIMONE_LOGIN_GROUPS_CLAIM',
    defaultWords: 'none',
    sentence: "Claim that lists a user's groups, for grants to groups.",
  },
  'login.token_expires_in': {
    type: 'duration',
    env: 'TIMONE_LOGIN_TOKEN_EXPIRES_IN',
    default: '30d',
    sentence: 'How long a token of timone login is good.',
  },
  grant: {
    type: 'grants',
    env: 'TIMONE_GRANT',
    default: '',
    sentence:
      'What users and groups may do: an array of tables, `[[grant]]` with user or group, and scopes (JSON in the environment).',
  },
  'secrets.keys': {
    type: 'secret',
    env: 'TIMONE_SECRET_KEYS',
    defaultWords: 'generated, kept in DATA/secret-keys',
    sentence:
      'Keys that encrypt secrets in the database (Fernet), separated by commas: the first encrypts, all decrypt.',
  },
  'auth.require_scope': {
    type: 'boolean',
    env: 'TIMONE_REQUIRE_SCOPE',
    default: 'false',
    sentence: 'Refuse tokens that carry no scope, instead of trusting them with every repository.',
  },
  'lfs.public_repositories': {
    type: 'repositories',
    env: 'TIMONE_PUBLIC_REPOSITORIES',
    default: '',
    sentence: 'Repositories that anyone may download from: org/repo or org/*, separated by commas.',
  },
  'lfs.object_expires_in': {
    type: 'duration',
    env: 'TIMONE_OBJECT_EXPIRESIN',
    default: '3600',
    sentence:
      'Seconds for which links and storage credentials are good, 60 to 43200; STS gives no less than 900 and no more than the role allows.',
  },
  'lfs.quota': {
    type: 'bytes',
    env: 'TIMONE_QUOTA',
    default: '0',
    sentence: 'Bytes that each repository may hold, as in 500m, 10g or 2t; 0: no bound. See timone usage.',
  },
  'limits.requests_per_minute': {
    type: 'integer',
    env: 'TIMONE_REQUESTS_PER_MINUTE',
    default: '0',
    sentence:
      'Requests a minute, for Batch and locks, that each user may make (and all who did not sign in, together); 0: no limit.',
  },
  'remotestorage.root': {
    type: 'path',
    env: 'TIMONE_REMOTESTORAGE_ROOT',
    defaultWords: 'none: no remoteStorage',
    sentence: "Folder of users' storage for remoteStorage apps, one Git repository for each user.",
  },
  'remotestorage.large': {
    type: 'bytes',
    env: 'TIMONE_REMOTESTORAGE_LARGE',
    default: '1m',
    sentence: 'Size from which a document is kept as an object of Git LFS, 1k to 16m.',
  },
  'remotestorage.quota': {
    type: 'bytes',
    env: 'TIMONE_REMOTESTORAGE_QUOTA',
    default: '1g',
    sentence: 'Bytes that the documents of one user may have together, unless the user has another quota.',
  },
  'remotestorage.origin': {
    type: 'url',
    env: 'TIMONE_REMOTESTORAGE_ORIGIN',
    defaultWords: 'the public address',
    sentence:
      "Another public address of this server, for users' storage alone: documents of apps then share no origin with sign-in.",
  },
  'metrics.token': {
    type: 'secret',
    env: 'TIMONE_METRICS_TOKEN',
    defaultWords: 'none: loopback only',
    sentence:
      'Bearer token that GET /metrics asks for; without one it answers programs of this machine only.',
  },
  trust: {
    type: 'trust',
    env: 'TIMONE_TRUST',
    default: '[]',
    sentence:
      'Whose identity tokens are exchanged at /oauth/token: an array of tables, `[[trust]]` (JSON in the environment); see CI runners.',
  },
  'github.api': {
    type: 'url',
    env: 'TIMONE_GITHUB_API',
    default: 'https://api.github.com',
    sentence: 'Address of the REST API of GitHub; of a GitHub Enterprise Server https://HOST/api/v3.',
  },
  'github.repositories': {
    type: 'repositories',
    env: 'TIMONE_GITHUB_REPOSITORIES',
    default: '',
    sentence:
      'Repositories that tokens of GitHub open, as their namesakes at GitHub do: org/repo or org/*, separated by commas.',
  },
  'github.app_id': {
    type: 'list',
    env: 'TIMONE_GITHUB_APP_ID',
    aliases: ['GITHUB_APP_ID'],
    default: '',
    sentence:
      'GitHub App whose installation tokens are handed out at /api/OWNER/REPO; several separated by commas.',
  },
  'github.private_key': {
    type: 'paths',
    env: 'TIMONE_GITHUB_PRIVATE_KEY',
    aliases: ['GITHUB_APP_PRIVATE_KEY'],
    default: '',
    sentence: 'PEM file with the private key of that app; as many as there are apps, in the same order.',
  },
  'github.renew_before': {
    type: 'integer',
    env: 'TIMONE_GITHUB_RENEW_BEFORE',
    aliases: ['TOKEN_RENEW_AT'],
    default: '60',
    sentence: "Seconds before a token's end from which a new one is minted, 0 to 3000.",
  },
  'github.open': {
    type: 'boolean',
    env: 'TIMONE_GITHUB_OPEN',
    default: 'false',
    sentence: 'Hand out installation tokens to any program of this machine; only when listening on loopback.',
  },
  'leases.return_origins': {
    type: 'list',
    env: 'TIMONE_RETURN_ORIGINS',
    default: '',
    sentence:
      'Origins of web applications that users may be sent back to after they connected an account, and that may ask for its tokens.',
  },
  'database.url': {
    type: 'database',
    env: 'TIMONE_DATABASE_URL',
    defaultWords: 'sqlite:DATA/timone.db',
    sentence:
      'Where locks are kept: sqlite:PATH, for one server, or postgres://USER:PASSWORD@HOST:PORT/NAME.',
  },
  'amqp.url': {
    type: 'secret',
    env: 'TIMONE_AMQP_URL',
    defaultWords: 'none: users are not served over AMQP',
    sentence:
      'Message broker whose queue of requests for users is answered: amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps:// for TLS.',
  },
  'amqp.mechanism': {
    type: 'choice',
    env: 'TIMONE_AMQP_MECHANISM',
    default: 'PLAIN',
    choices: { PLAIN: 'PLAIN', AMQPLAIN: 'AMQPLAIN' },
    sentence: 'How the broker is told the password: PLAIN or AMQPLAIN.',
  },
  'amqp.ca': {
    type: 'path',
    env: 'TIMONE_AMQP_CA',
    defaultWords: 'those of Node.js',
    sentence: 'File with the certificates (PEM) that the broker is trusted by, with amqps://.',
  },
  'amqp.prefetch': {
    type: 'integer',
    env: 'TIMONE_AMQP_PREFETCH',
    default: '16',
    sentence: 'Requests from the broker that are worked on at once, 1 to 1000.',
  },
  'amqp.expose_tokens': {
    type: 'boolean',
    env: 'TIMONE_AMQP_EXPOSE_TOKENS',
    default: 'false',
    sentence: 'Put the access tokens of users into answers over AMQP, for everybody who may ask there.',
  },
  'storage.driver': {
    type: 'choice',
    env: 'TIMONE_STORAGE',
    default: 'file',
    choices: { file: 'file', s3: 's3', DumbStorageDriver: 'file', S3StorageDriver: 's3' },
    sentence: 'Where objects live: file or s3 (DumbStorageDriver and S3StorageDriver mean the same).',
  },
  'storage.file.root': {
    type: 'path',
    env: 'TIMONE_STORAGE_FILE_ROOT',
    defaultWords: 'DATA/objects',
    sentence: 'Folder that the file driver keeps objects in.',
  },
  'storage.s3.url': {
    type: 'url',
    env: 'TIMONE_STORAGE_S3_URL',
    defaultWords: 'AWS',
    sentence: 'Address of an S3-compatible store.',
  },
  'storage.s3.region': {
    type: 'string',
    env: 'TIMONE_STORAGE_S3_REGION',
    sentence: 'Region of the bucket; required with s3.',
  },
  'storage.s3.bucket': {
    type: 'string',
    env: 'TIMONE_STORAGE_S3_BUCKET',
    sentence: 'Name of the bucket; required with s3.',
  },
  'storage.s3.prefix': {
    type: 'string',
    env: 'TIMONE_STORAGE_S3_PREFIX',
    default: '',
    sentence: 'What every key in the bucket begins with; a slash is added at its end.',
  },
  'storage.s3.key': {
    type: 'secret',
    env: 'TIMONE_STORAGE_S3_KEY',
    defaultWords: 'found as the AWS tools do',
    sentence: 'Access key id of the server itself.',
  },
  'storage.s3.secret': {
    type: 'secret',
    env: 'TIMONE_STORAGE_S3_SECRET',
    defaultWords: 'found as the AWS tools do',
    sentence: 'Secret access key of the server itself.',
  },
  'storage.s3.role_arn': {
    type: 'string',
    env: 'TIMONE_STORAGE_S3_ROLE_ARN',
    defaultWords: 'none: signed URLs',
    sentence:
      'Role whose short-lived credentials, narrowed to one repository and one direction, clients are given.',
  },
  'storage.s3.sts_url': {
    type: 'url',
    env: 'TIMONE_STORAGE_S3_STS_URL',
    defaultWords: 'the S3 address, or AWS',
    sentence: 'Address of the STS service.',
  },
  'storage.s3.path_style': {
    type: 'boolean',
    env: 'TIMONE_STORAGE_S3_PATH_STYLE',
    defaultWords: 'true when an S3 address is set',
    sentence: 'Put the bucket into the path of requests instead of the host name.',
  },
  'storage.s3.checksums': {
    type: 'choice',
    env: 'TIMONE_STORAGE_S3_CHECKSUMS',
    defaultWords: 'when_required when an S3 address is set, else when_supported',
    choices: { when_required: 'when_required', when_supported: 'when_supported' },
    sentence: 'Whether the S3 client adds checksums of its own to requests; some stores refuse them.',
  },
} as const satisfies Readonly<Record<string, Setting>>

/** Place of a setting in the TOML file. */
export type SettingKey = keyof typeof SERVER_SETTINGS
