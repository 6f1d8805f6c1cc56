// argv: the job in JSON, as with_nodemailer() gives it. Prints the reply that decided, in JSON.
const fs = require('fs')
const nodemailer = require('nodemailer')

const job = JSON.parse(process.argv[2])
const login = job.login
const bearer = login && login.mechanism === 'XOAUTH2'
const transport = nodemailer.createTransport({
  host: '127.0.0.1',
  port: job.port,
  name: 'client.test',
  secure: job.tls === 'implicit',
  requireTLS: job.tls === 'starttls',
  ignoreTLS: job.tls === 'off',
  tls: job.tls === 'off' ? undefined : { ca: fs.readFileSync(job.ca), servername: 'localhost' },
  authMethod: login ? login.mechanism : undefined,
  auth: !login ? undefined
    : bearer ? { type: 'OAuth2', user: login.user, accessToken: login.secret }
    : { user: login.user, pass: login.secret },
})
const say = (line) => console.log(JSON.stringify({ code: parseInt(line.slice(0, 3), 10), text: line.slice(4) }))
transport.sendMail({ envelope: { from: job.sender, to: [job.recipient] }, raw: fs.readFileSync(job.message) }).then(
  (info) => say(info.response),
  (error) => { if (!error.response) throw error; say(error.response) },
)
