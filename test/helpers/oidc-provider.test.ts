import * as client from 'openid-client'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startBrowser, type TestBrowser } from './browser.ts'
import { startOidcProvider, type TestOidcProvider } from './oidc-provider.ts'

const REDIRECT = 'http://127.0.0.1:9/callback'
let provider: TestOidcProvider
let browser: TestBrowser
beforeAll(async () => {
  provider = await startOidcProvider({ alwaysRefreshToken: true })
  browser = await startBrowser()
}, 60_000)
afterAll(async () => {
  await browser.close()
  await provider.close()
})

test('Chromium signs in at the provider, whose refresh tokens rotate and are good once', async () => {
  provider.allowRedirect(REDIRECT)
  const config = await client.discovery(
    new URL(provider.issuer),
    provider.clientId,
    undefined,
    client.ClientSecretBasic(provider.clientSecret),
    { execute: [client.allowInsecureRequests] },
  )
  const verifier = client.randomPKCECodeVerifier()
  const url = client.buildAuthorizationUrl(config, {
    redirect_uri: REDIRECT,
    scope: 'openid profile',
    code_challenge: await client.calculatePKCECodeChallenge(verifier),
    code_challenge_method: 'S256',
  })
  const page = await browser.fresh()
  const back = page.waitForRequest((request) => request.url().startsWith(REDIRECT))
  await page.goto(url.href)
  await page.fill('input[name=login]', 'ada')
  await page.fill('input[name=password]', 'any')
  await page.click('button[type=submit]')
  await page.click('button[type=submit]').catch(() => {})
  const tokens = await client.authorizationCodeGrant(config, new URL((await back).url()), {
    pkceCodeVerifier: verifier,
  })
  expect(tokens.claims()).toMatchObject({ sub: 'ada', name: 'ada' })
  const old = tokens.refresh_token as string
  const next = await client.refreshTokenGrant(config, old)
  expect(next.refresh_token).not.toBe(old)
  await expect(client.refreshTokenGrant(config, old)).rejects.toThrow()
  await expect(client.refreshTokenGrant(config, next.refresh_token as string)).rejects.toThrow()
  expect(provider.grants).toEqual([
    'authorization_code ok',
    'refresh_token ok',
    'refresh_token invalid_grant',
    'refresh_token invalid_grant',
  ])
}, 60_000)
